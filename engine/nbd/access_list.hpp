// Who may open which export. Pure.
//
// A client is what TLS proved: the common name of its certificate, or the name of its pre-shared key.
#pragma once

#include "engine/base/error.hpp"

#include <map>
#include <set>
#include <string>
#include <string_view>

namespace weir::nbd {

/// Without any rule every client may open every export; with one, only what rules allow.
class access_list {
 public:
  /// Reads "CLIENT=EXPORT"; the export "*" stands for all. The client ends at the first '='.
  outcome<void> allow(std::string_view rule);

  bool empty() const noexcept { return exports_of_.empty(); }
  /// `client` is empty for a client that proved nothing; no rule is about it.
  bool permits(std::string_view client, std::string_view export_name) const;

 private:
  std::map<std::string, std::set<std::string, std::less<>>, std::less<>> exports_of_;
};

}  // namespace weir::nbd
