#include "engine/storage/http_transfer.hpp"

#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>
#include <utility>

namespace weir {
namespace {

/// A transfer that brings less than this for the stall time has stalled.
constexpr long least_bytes_per_s = 1024;
/// So much of a body that is of no use is read, to keep the connection.
constexpr std::size_t most_dropped = std::size_t{16} << 10;

bool exists(const std::string& path) {
  struct stat facts{};
  return ::stat(path.c_str(), &facts) == 0;
}

long seconds(std::chrono::milliseconds time) {
  return std::max<long>(1, static_cast<long>((time.count() + 999) / 1000));
}

/// Not inherited by the processes that weir starts.
curl_socket_t open_socket(void*, curlsocktype, curl_sockaddr* address) noexcept {
  return ::socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
}

/// What no later attempt will change.
bool is_final(CURLcode code) noexcept {
  switch (code) {
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_URL_MALFORMAT:
    case CURLE_UNSUPPORTED_PROTOCOL:
      return true;
    default:
      return false;
  }
}

}  // namespace

http_transfer::http_transfer(const http_target& target, const http_client_settings& settings, request wanted)
    : target_(target), settings_(settings), wanted_(std::move(wanted)), easy_(curl_easy_init()) {
  if (easy_ == nullptr) throw std::bad_alloc();
  configure();
  configure_tls();
  if (wanted_.with_secrets) configure_secrets();
}

http_transfer::~http_transfer() {
  curl_easy_cleanup(easy_);
  curl_slist_free_all(headers_);
}

void http_transfer::configure() {
  const std::string range =
      std::to_string(wanted_.range.offset) + "-" + std::to_string(wanted_.range.end() - 1);
  headers_ = curl_slist_append(nullptr, "Accept-Encoding: identity");
  curl_easy_setopt(easy_, CURLOPT_URL, wanted_.url.c_str());
  curl_easy_setopt(easy_, CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(easy_, CURLOPT_DISALLOW_USERNAME_IN_URL, 1L);
  curl_easy_setopt(easy_, CURLOPT_FOLLOWLOCATION, 0L);
  curl_easy_setopt(easy_, CURLOPT_HTTP_VERSION, static_cast<long>(CURL_HTTP_VERSION_1_1));
  curl_easy_setopt(easy_, CURLOPT_HTTPHEADER, headers_);
  curl_easy_setopt(easy_, CURLOPT_RANGE, range.c_str());
  curl_easy_setopt(easy_, CURLOPT_USERAGENT, "weir");
  curl_easy_setopt(easy_, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(easy_, CURLOPT_QUICK_EXIT, 1L);
  curl_easy_setopt(easy_, CURLOPT_OPENSOCKETFUNCTION, &open_socket);
  curl_easy_setopt(easy_, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
  curl_easy_setopt(easy_, CURLOPT_CONNECTTIMEOUT_MS, static_cast<long>(settings_.connect_timeout.count()));
  curl_easy_setopt(easy_, CURLOPT_LOW_SPEED_LIMIT, least_bytes_per_s);
  curl_easy_setopt(easy_, CURLOPT_LOW_SPEED_TIME, seconds(settings_.stall_timeout));
  curl_easy_setopt(easy_, CURLOPT_BUFFERSIZE, 256L * 1024);
  curl_easy_setopt(easy_, CURLOPT_ERRORBUFFER, error_text_.data());
  curl_easy_setopt(easy_, CURLOPT_HEADERFUNCTION, &http_transfer::on_header);
  curl_easy_setopt(easy_, CURLOPT_HEADERDATA, this);
  curl_easy_setopt(easy_, CURLOPT_WRITEFUNCTION, &http_transfer::on_body);
  curl_easy_setopt(easy_, CURLOPT_WRITEDATA, this);
}

void http_transfer::configure_tls() {
  const long verify = target_.verify_peer ? 1L : 0L;
  curl_easy_setopt(easy_, CURLOPT_SSL_VERIFYPEER, verify);
  curl_easy_setopt(easy_, CURLOPT_SSL_VERIFYHOST, 2L * verify);
  curl_easy_setopt(easy_, CURLOPT_SSLVERSION, static_cast<long>(CURL_SSLVERSION_TLSv1_2));
  // A directory without one holds keys for other protocols.
  const std::string authority = target_.ca_directory + "/ca-cert.pem";
  if (target_.ca_directory.empty() || !exists(authority)) return;
  const std::string certificate = target_.ca_directory + "/client-cert.pem";
  const std::string key = target_.ca_directory + "/client-key.pem";
  curl_easy_setopt(easy_, CURLOPT_CAINFO, authority.c_str());
  curl_easy_setopt(easy_, CURLOPT_CAPATH, nullptr);
  if (!wanted_.with_secrets || !exists(certificate)) return;
  curl_easy_setopt(easy_, CURLOPT_SSLCERT, certificate.c_str());
  curl_easy_setopt(easy_, CURLOPT_SSLKEY, key.c_str());
}

void http_transfer::configure_secrets() {
  if (!target_.user.empty() || !target_.password.empty()) {
    curl_easy_setopt(easy_, CURLOPT_HTTPAUTH, CURLAUTH_BASIC);
    curl_easy_setopt(easy_, CURLOPT_USERNAME, target_.user.c_str());
    curl_easy_setopt(easy_, CURLOPT_PASSWORD, target_.password.c_str());
  }
  if (!target_.cookies.empty()) curl_easy_setopt(easy_, CURLOPT_COOKIE, target_.cookies.c_str());
}

std::size_t http_transfer::on_header(char* data, std::size_t size, std::size_t count, void* self) noexcept {
  auto& transfer = *static_cast<http_transfer*>(self);
  const std::size_t bytes = size * count;
  if (transfer.head_.feed({data, bytes})) return bytes;
  transfer.sends_too_much_ = true;
  return 0;
}

std::size_t http_transfer::on_body(char* data, std::size_t size, std::size_t count, void* self) noexcept {
  auto& transfer = *static_cast<http_transfer*>(self);
  const std::size_t bytes = size * count;
  if (!transfer.verdict_) {
    transfer.verdict_ = http_verdict::judge(transfer.head_, transfer.wanted_.range, transfer.wanted_.known);
  }
  const http_verdict& verdict = *transfer.verdict_;
  if (verdict.what != http_verdict::kind::data) {
    transfer.dropped_ += bytes;
    return transfer.dropped_ <= most_dropped && transfer.head_.status() != 200 ? bytes : 0;
  }
  if (bytes > verdict.length - transfer.received_) {
    transfer.sends_too_much_ = true;
    return 0;
  }
  std::memcpy(transfer.wanted_.into.data() + transfer.received_, data, bytes);
  transfer.received_ += bytes;
  return bytes;
}

http_verdict http_transfer::failed(CURLcode code) const {
  http_verdict verdict{.what = http_verdict::kind::try_again, .code = errno_code(EIO)};
  if (is_final(code)) {
    verdict.what = http_verdict::kind::refuse;
    verdict.code = errno_code(EACCES);
  }
  verdict.why = error_text_[0] != '\0' ? error_text_.data() : curl_easy_strerror(code);
  return verdict;
}

task<http_verdict> http_transfer::run(curl_driver& driver) {
  const CURLcode code = co_await driver.perform(easy_);
  if (sends_too_much_) {
    co_return http_verdict{.what = http_verdict::kind::refuse,
                           .why = "the server sends more than an answer may hold",
                           .code = errno_code(EPROTO)};
  }
  if (verdict_ && verdict_->what != http_verdict::kind::data) co_return *verdict_;
  if (code != CURLE_OK) co_return failed(code);
  if (!verdict_) verdict_ = http_verdict::judge(head_, wanted_.range, wanted_.known);
  if (verdict_->what == http_verdict::kind::data && received_ != verdict_->length)
    co_return failed(CURLE_PARTIAL_FILE);
  co_return *verdict_;
}

std::string http_transfer::redirect_url() const {
  const char* url = nullptr;
  curl_easy_getinfo(easy_, CURLINFO_REDIRECT_URL, &url);
  return url != nullptr ? url : "";
}

}  // namespace weir
