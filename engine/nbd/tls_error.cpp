#include "engine/nbd/tls_error.hpp"

#include <openssl/err.h>

#include <cerrno>

namespace weir::nbd {

std::string take_tls_reason(std::string_view otherwise) {
  const unsigned long first = ERR_get_error();
  ERR_clear_error();
  if (first == 0) return std::string(otherwise);
  const char* const words = ERR_reason_error_string(first);
  return words == nullptr ? std::string(otherwise) : words;
}

failure tls_failure(std::string_view subject) {
  return make_failure(errno_code(EINVAL), subject, take_tls_reason("unusable for TLS"));
}

}  // namespace weir::nbd
