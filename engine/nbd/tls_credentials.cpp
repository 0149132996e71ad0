#include "engine/nbd/tls_credentials.hpp"

#include "engine/nbd/tls_error.hpp"

#include <openssl/err.h>
#include <openssl/ssl.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>
#include <optional>
#include <utility>

namespace weir::nbd {
namespace {

using key_map = std::map<std::string, std::vector<unsigned char>, std::less<>>;

/// OpenSSL takes no longer ones.
constexpr std::size_t longest_key = 256;
constexpr std::size_t longest_psk_file = std::size_t{1} << 20;

std::optional<unsigned> digit_value(char digit) noexcept {
  if (digit >= '0' && digit <= '9') return static_cast<unsigned>(digit - '0');
  if (digit >= 'a' && digit <= 'f') return static_cast<unsigned>(digit - 'a' + 10);
  if (digit >= 'A' && digit <= 'F') return static_cast<unsigned>(digit - 'A' + 10);
  return std::nullopt;
}

/// Empty where `text` is no key.
std::vector<unsigned char> decode_key(std::string_view text) {
  std::vector<unsigned char> key;
  if (text.size() % 2 != 0 || text.size() > 2 * longest_key) return key;
  for (std::size_t at = 0; at < text.size(); at += 2) {
    const auto high = digit_value(text[at]);
    const auto low = digit_value(text[at + 1]);
    if (!high || !low) return {};
    key.push_back(static_cast<unsigned char>(*high * 16 + *low));
  }
  return key;
}

bool exists(const std::string& path) {
  return std::ifstream(path).is_open() || errno != ENOENT;
}

outcome<std::string> read_text(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return make_failure(errno_code(errno), path);
  std::string text(longest_psk_file + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<std::size_t>(file.gcount()));
  if (text.size() > longest_psk_file) return make_failure(errno_code(EFBIG), path);
  return text;
}

/// The key of the client's choice goes to `key`, its name to where the session's channel keeps it; 0 says that there
/// is none of that name.
unsigned find_psk(SSL* session, const char* name, unsigned char* key, unsigned room) {
  const auto* const own = static_cast<const tls_credentials*>(SSL_CTX_get_app_data(SSL_get_SSL_CTX(session)));
  const std::vector<unsigned char>* const found = name == nullptr ? nullptr : own->find_key(name);
  if (found == nullptr || found->size() > room) return 0;
  std::memcpy(key, found->data(), found->size());
  *static_cast<std::string*>(SSL_get_app_data(session)) = name;
  return static_cast<unsigned>(found->size());
}

}  // namespace

outcome<key_map> parse_psk_file(std::string_view text, const std::string& path) {
  key_map keys;
  unsigned number = 0;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    ++number;
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty() || line.starts_with('#')) continue;
    const std::size_t colon = line.find(':');
    std::vector<unsigned char> key = decode_key(line.substr(std::min(colon, line.size() - 1) + 1));
    if (colon == 0 || colon == std::string_view::npos || key.empty()) {
      return make_failure(errno_code(EINVAL), path + ": line " + std::to_string(number),
                          "not a name, a colon and a key in hexadecimal digits");
    }
    keys.insert_or_assign(std::string(line.substr(0, colon)), std::move(key));
  }
  if (keys.empty()) return make_failure(errno_code(EINVAL), path, "there is no key in it");
  return keys;
}

tls_credentials::~tls_credentials() {
  SSL_CTX_free(context_);
}

const std::vector<unsigned char>* tls_credentials::find_key(std::string_view name) const noexcept {
  const auto found = keys_.find(name);
  return found == keys_.end() ? nullptr : &found->second;
}

outcome<std::shared_ptr<const tls_credentials>> tls_credentials::load(const std::string& directory,
                                                                      tls_proof wanted) {
  const std::string certificate = directory + "/server-cert.pem";
  const std::string keys = directory + "/keys.psk";
  const bool certificates =
      wanted == tls_proof::certificates || (wanted == tls_proof::any && exists(certificate));
  const bool pre_shared = wanted == tls_proof::pre_shared_keys || (wanted == tls_proof::any && exists(keys));
  if (!certificates && !pre_shared) {
    return make_failure(errno_code(ENOENT), directory,
                        "neither server-cert.pem nor keys.psk is there; weir tls init makes them");
  }
  std::shared_ptr<tls_credentials> made(new tls_credentials);
  if (auto done = made->prepare(); !done) return done.error();
  if (certificates) {
    if (auto done = made->use_certificates(directory); !done) return done.error();
  }
  if (pre_shared) {
    if (auto done = made->use_keys(keys); !done) return done.error();
  }
  return std::shared_ptr<const tls_credentials>(std::move(made));
}

outcome<void> tls_credentials::prepare() {
  ERR_clear_error();
  context_ = SSL_CTX_new(TLS_server_method());
  if (context_ == nullptr) return tls_failure("TLS");
  SSL_CTX_set_app_data(context_, this);
  SSL_CTX_set_min_proto_version(context_, TLS1_2_VERSION);
  // Pre-shared keys of this kind work with SHA-256 only, and OpenSSL looks for a key after it has chosen the cipher.
  SSL_CTX_set_ciphersuites(context_,
                           "TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256:TLS_AES_256_GCM_SHA384");
  SSL_CTX_set_options(context_, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_NO_TICKET |
                                    SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_ENABLE_KTLS);
  // A pre-shared key counts as a session to resume, which has to belong to somebody.
  static constexpr unsigned char owner[] = "weir";
  SSL_CTX_set_session_id_context(context_, owner, sizeof owner);
  SSL_CTX_set_session_cache_mode(context_, SSL_SESS_CACHE_OFF);
  // A client that is resumed would not prove itself anew.
  SSL_CTX_set_num_tickets(context_, 0);
  SSL_CTX_set_mode(context_, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                 SSL_MODE_RELEASE_BUFFERS);
  // Without certificates this refuses whoever has no key.
  SSL_CTX_set_verify(context_, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
  return {};
}

outcome<void> tls_credentials::use_certificates(const std::string& directory) {
  const std::string authority = directory + "/ca-cert.pem";
  const std::string certificate = directory + "/server-cert.pem";
  const std::string key = directory + "/server-key.pem";
  const std::string revoked = directory + "/ca-crl.pem";
  if (SSL_CTX_load_verify_file(context_, authority.c_str()) != 1) return tls_failure(authority);
  SSL_CTX_set_client_CA_list(context_, SSL_load_client_CA_file(authority.c_str()));
  if (SSL_CTX_use_certificate_chain_file(context_, certificate.c_str()) != 1) return tls_failure(certificate);
  if (SSL_CTX_use_PrivateKey_file(context_, key.c_str(), SSL_FILETYPE_PEM) != 1) return tls_failure(key);
  if (SSL_CTX_check_private_key(context_) != 1) return tls_failure(key);
  if (!exists(revoked)) return {};
  X509_STORE* const store = SSL_CTX_get_cert_store(context_);
  X509_LOOKUP* const lookup = X509_STORE_add_lookup(store, X509_LOOKUP_file());
  if (lookup == nullptr || X509_load_crl_file(lookup, revoked.c_str(), X509_FILETYPE_PEM) < 1) {
    return tls_failure(revoked);
  }
  X509_STORE_set_flags(store, X509_V_FLAG_CRL_CHECK);
  return {};
}

outcome<void> tls_credentials::use_keys(const std::string& path) {
  const outcome<std::string> text = read_text(path);
  if (!text) return text.error();
  outcome<key_map> keys = parse_psk_file(*text, path);
  if (!keys) return keys.error();
  keys_ = *std::move(keys);
  SSL_CTX_set_psk_server_callback(context_, find_psk);
  return {};
}

}  // namespace weir::nbd
