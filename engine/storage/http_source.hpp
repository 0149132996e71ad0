// Ranges of one object on a web server: redirects, retries, and the certainty that it is one object.
//
// - A redirect is followed at most most_redirects times, never from https to http, and user, password, cookies and the
//   client's certificate go to the server they were given for only (scheme, name and port). Where it led is remembered;
//   when that place refuses, the first one is asked again.
// - What may pass (no connection, a cut one, 5xx, 408, 429) is tried again with growing pauses until the
//   reconnect limit has gone by since the outage began, or since this range first failed.
// - The first answer that contradicts the size, ETag or Last-Modified of the opened object ends the source for good:
//   ranges of two versions are never mixed. A server that sends neither ETag nor Last-Modified gives itself away by the
//   size only.
#pragma once

#include "engine/base/async_event.hpp"
#include "engine/base/error.hpp"
#include "engine/base/range.hpp"
#include "engine/base/task.hpp"
#include "engine/base/timer.hpp"
#include "engine/storage/curl_driver.hpp"
#include "engine/storage/http_answer.hpp"
#include "engine/storage/http_target.hpp"

#include <chrono>
#include <cstddef>
#include <optional>
#include <set>
#include <span>
#include <string>

namespace weir {

class http_source {
 public:
  static constexpr unsigned most_redirects = 5;

  http_source(executor context, http_target target, http_client_settings settings);

  const http_target& target() const noexcept { return target_; }
  const http_client_settings& settings() const noexcept { return settings_; }
  std::uint64_t size() const noexcept { return object_ ? object_->size : 0; }

  /// Asks once for the beginning of the object, `first.size()` bytes at most, and learns what it is. Failures name
  /// target.location and never a secret.
  task<outcome<void>> open(std::span<std::byte> first);
  /// Fills `into` from the offset on. Preconditions: open() succeeded; inside the object; not empty.
  /// Errors: ESTALE for an object that has changed; ETIMEDOUT after the reconnect limit; EACCES, ENOENT, EPROTO.
  task<result<void>> read(std::uint64_t offset, std::span<std::byte> into);
  /// Ends what is under way. Reads fail from now on.
  void close();

 private:
  using clock = std::chrono::steady_clock;

  task<http_verdict> ask(byte_range range, std::span<std::byte> into);
  task<http_verdict> follow(std::string url, byte_range range, std::span<std::byte> into);
  bool is_too_late(clock::time_point failing_since) const;
  task<void> pause(std::chrono::milliseconds time);

  executor executor_;
  http_target target_;
  http_client_settings settings_;
  curl_driver driver_;
  std::optional<http_object> object_;
  std::string place_;  ///< where redirects led the last time
  std::optional<clock::time_point> outage_since_;
  bool has_changed_ = false;
  bool closing_ = false;
  std::set<timer*> pauses_;
};

}  // namespace weir
