// What a TLS server proves itself with and checks its clients by, read from a directory as QEMU lays it out:
//
//   ca-cert.pem server-cert.pem server-key.pem [ca-crl.pem]   certificates; a client's must come from that CA
//   keys.psk                                                   lines "name:hexadecimal key"
//
// With both, a client may prove itself either way. There is no way in without proof. TLS 1.2 and 1.3. The kernel
// encrypts where it offers to (kTLS).
#pragma once

#include "engine/base/error.hpp"

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

struct ssl_ctx_st;

namespace weir::nbd {

/// Reads the text of a keys.psk file; empty lines and those that begin with # say nothing. Failures name `path` and
/// the line, never a key.
outcome<std::map<std::string, std::vector<unsigned char>, std::less<>>> parse_psk_file(
    std::string_view text, const std::string& path);

enum class tls_proof : std::uint8_t { any, certificates, pre_shared_keys };

class tls_credentials {
 public:
  /// Reads the files now. `wanted` restricts which of them are looked at. Failures name the file and the reason.
  static outcome<std::shared_ptr<const tls_credentials>> load(const std::string& directory,
                                                              tls_proof wanted = tls_proof::any);
  ~tls_credentials();
  tls_credentials(const tls_credentials&) = delete;
  tls_credentials& operator=(const tls_credentials&) = delete;

  /// Sessions made of it have a std::string as application data, which receives the name of the key that is used.
  ssl_ctx_st* context() const noexcept { return context_; }
  /// The key of that name, or null.
  const std::vector<unsigned char>* find_key(std::string_view name) const noexcept;

 private:
  tls_credentials() = default;
  outcome<void> prepare();
  outcome<void> use_certificates(const std::string& directory);
  outcome<void> use_keys(const std::string& path);

  ssl_ctx_st* context_ = nullptr;
  std::map<std::string, std::vector<unsigned char>, std::less<>> keys_;
};

}  // namespace weir::nbd
