// One QMP conversation without its I/O: bytes in, requests out (docs/interop/qmp-spec of QEMU).
//
//   greeting → negotiating: only qmp_capabilities is a command → ready: every other command
//
// Requests are answered in the order they came. What is wrong with a request as such is answered here; what is
// wrong with its arguments is the command's business.
#pragma once

#include "engine/control/json_stream.hpp"
#include "engine/control/qmp_reply.hpp"

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace weir {

struct qmp_request {
  std::string command;
  boost::json::object arguments;
  std::optional<boost::json::value> id;
  /// Set where the request is answered with this error and not executed.
  std::optional<qmp_error> refusal;
};

class qmp_session {
 public:
  /// The greeting's line.
  static std::string greeting(std::string_view version);
  /// The reply's line.
  static std::string reply_line(const std::optional<boost::json::value>& id, const qmp_reply& reply);

  /// Requests completed by `bytes`.
  std::vector<qmp_request> feed(std::string_view bytes);
  /// Judges a request at the moment its turn comes: its refusal, or nothing if it is to be executed.
  /// qmp_capabilities is handled here: `answered` tells that its reply is {}.
  struct verdict {
    std::optional<qmp_error> refusal = std::nullopt;
    bool answered = false;
  };
  verdict admit(const qmp_request& request);

  /// True once events are to be sent.
  bool negotiated() const noexcept { return negotiated_; }

 private:
  verdict negotiate(const qmp_request& request);

  json_stream stream_;
  bool negotiated_ = false;
};

/// {"qemu":{"major":…,"minor":…,"micro":…},"package":"weir 0.1.0"} for "0.1.0".
boost::json::object describe_version(std::string_view version);

}  // namespace weir
