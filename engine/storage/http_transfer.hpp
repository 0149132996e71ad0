// One range request to a web server: a libcurl handle with everything that bounds what the server may do.
//
// The body goes straight into the caller's buffer, and only once the headers have passed http_verdict::judge; bodies of
// other answers are cut off. Redirects are not followed here (engine/storage/http_source.hpp does). Content encodings are
// not asked for. A transfer slower than a kilobyte per second for the stall time ends. HTTP/1.1 only: one
// transfer per connection.
#pragma once

#include "engine/base/range.hpp"
#include "engine/base/task.hpp"
#include "engine/storage/curl_driver.hpp"
#include "engine/storage/http_answer.hpp"
#include "engine/storage/http_target.hpp"

#include <curl/curl.h>

#include <array>
#include <cstddef>
#include <optional>
#include <span>
#include <string>

namespace weir {

class http_transfer {
 public:
  struct request {
    std::string url;
    bool with_secrets = false;  ///< user, password and cookies go along
    byte_range range;           ///< not empty
    std::span<std::byte> into;  ///< as long as the range
    std::optional<http_object> known;
  };

  /// The references must outlive the transfer.
  http_transfer(const http_target& target, const http_client_settings& settings, request wanted);
  ~http_transfer();
  http_transfer(const http_transfer&) = delete;
  http_transfer& operator=(const http_transfer&) = delete;

  task<http_verdict> run(curl_driver& driver);
  /// Where a redirect leads, made absolute. Precondition: run() returned one.
  std::string redirect_url() const;

 private:
  void configure();
  void configure_tls();
  void configure_secrets();
  http_verdict failed(CURLcode code) const;

  static std::size_t on_header(char* data, std::size_t size, std::size_t count, void* self) noexcept;
  static std::size_t on_body(char* data, std::size_t size, std::size_t count, void* self) noexcept;

  const http_target& target_;
  const http_client_settings& settings_;
  request wanted_;
  CURL* easy_;
  curl_slist* headers_ = nullptr;
  http_head head_;
  std::optional<http_verdict> verdict_;
  std::size_t received_ = 0;
  std::size_t dropped_ = 0;
  bool sends_too_much_ = false;
  std::array<char, CURL_ERROR_SIZE> error_text_{};
};

}  // namespace weir
