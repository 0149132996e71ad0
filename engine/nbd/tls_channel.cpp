#include "engine/nbd/tls_channel.hpp"

#include "engine/nbd/tls_error.hpp"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>
#include <utility>

namespace weir::nbd {
namespace {

bool is_plain(std::string_view name) noexcept {
  return std::ranges::all_of(
      name, [](char each) { return static_cast<unsigned char>(each) >= 0x20 && each != 0x7f; });
}

/// The only common name of the certificate's subject.
std::string common_name_of(const X509* certificate) {
  X509_NAME* const subject = X509_get_subject_name(certificate);
  const int at = X509_NAME_get_index_by_NID(subject, NID_commonName, -1);
  // Two names would be two identities.
  if (at < 0 || X509_NAME_get_index_by_NID(subject, NID_commonName, at) >= 0) return {};
  unsigned char* text = nullptr;
  const int length = ASN1_STRING_to_UTF8(&text, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at)));
  if (length < 0) return {};
  std::string name(reinterpret_cast<const char*>(text), static_cast<std::size_t>(length));
  OPENSSL_free(text);
  return name;
}

}  // namespace

tls_channel::tls_channel(std::shared_ptr<const tls_credentials> credentials, int descriptor)
    : credentials_(std::move(credentials)), session_(SSL_new(credentials_->context())) {
  if (session_ == nullptr || SSL_set_fd(session_, descriptor) != 1) throw std::bad_alloc();
  SSL_set_app_data(session_, &key_name_);
  SSL_set_accept_state(session_);
}

tls_channel::~tls_channel() {
  SSL_free(session_);
}

tls_channel::step tls_channel::step_of(int returned) {
  switch (SSL_get_error(session_, returned)) {
    case SSL_ERROR_NONE:
      return step::done;
    case SSL_ERROR_WANT_READ:
      return step::want_read;
    case SSL_ERROR_WANT_WRITE:
      return step::want_write;
    case SSL_ERROR_SYSCALL:
      why_ = take_tls_reason(errno == 0 ? "the client hung up" : std::strerror(errno));
      break;
    case SSL_ERROR_ZERO_RETURN:
      why_ = "the client hung up";
      break;
    default:
      why_ = take_tls_reason("protocol error");
  }
  failed_ = true;
  return step::failed;
}

tls_channel::step tls_channel::shake_hands() {
  ERR_clear_error();
  errno = 0;
  const step next = step_of(SSL_accept(session_));
  const long verdict = SSL_get_verify_result(session_);
  if (next == step::failed && verdict != X509_V_OK) {
    why_ += std::string(": ") + X509_verify_cert_error_string(verdict);
  }
  return next;
}

std::string tls_channel::identity() const {
  // Whoever showed no certificate came in by a key: the one that was found last.
  X509* const certificate = SSL_get0_peer_certificate(session_);
  const std::string name = certificate == nullptr ? key_name_ : common_name_of(certificate);
  return is_plain(name) ? name : std::string();
}

tls_channel::moved tls_channel::receive(std::span<std::byte> into) {
  if (failed_) return {};
  ERR_clear_error();
  std::size_t length = 0;
  const int returned = SSL_read_ex(session_, into.data(), into.size(), &length);
  return {step_of(returned), length};
}

tls_channel::moved tls_channel::send(std::span<const std::byte> from) {
  if (failed_) return {};
  ERR_clear_error();
  std::size_t length = 0;
  const int returned = SSL_write_ex(session_, from.data(), from.size(), &length);
  return {step_of(returned), length};
}

void tls_channel::say_goodbye() noexcept {
  if (!failed_ && SSL_is_init_finished(session_) == 1) SSL_shutdown(session_);
  ERR_clear_error();
}

}  // namespace weir::nbd
