#include "engine/nbd/tls_certificates.hpp"

#include "engine/nbd/tls_error.hpp"

#include <arpa/inet.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <memory>
#include <optional>
#include <string_view>
#include <utility>

namespace weir::nbd {
namespace {

template <auto Free>
struct freer {
  void operator()(auto* what) const noexcept { Free(what); }
};
using key_pointer = std::unique_ptr<EVP_PKEY, freer<EVP_PKEY_free>>;
using certificate_pointer = std::unique_ptr<X509, freer<X509_free>>;
using memory_pointer = std::unique_ptr<BIO, freer<BIO_free_all>>;
using extension_pointer = std::unique_ptr<X509_EXTENSION, freer<X509_EXTENSION_free>>;

constexpr std::size_t psk_bytes = 32;
constexpr long seconds_per_day = 86'400;
/// Clocks of clients may be behind.
constexpr long backdated_s = 3600;

/// A certificate and its private key.
struct identity {
  key_pointer key;
  certificate_pointer certificate;
};

struct extension {
  int kind;
  std::string value;
};

/// Files made by one call: removed again unless it succeeds.
class new_files {
 public:
  new_files() = default;
  new_files(const new_files&) = delete;
  new_files& operator=(const new_files&) = delete;
  ~new_files() {
    for (const std::string& path : made_) ::unlink(path.c_str());
  }
  void keep() noexcept { made_.clear(); }

  /// Errors: the file exists, or cannot be written.
  outcome<void> write(const std::string& path, std::string_view text, mode_t mode) {
    const int file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode);
    if (file < 0) return make_failure(errno_code(errno), path);
    made_.push_back(path);
    const ssize_t written = ::write(file, text.data(), text.size());
    const int error = written < 0 ? errno : ENOSPC;
    const bool stored = written == static_cast<ssize_t>(text.size()) && ::fsync(file) == 0;
    ::close(file);
    if (!stored) return make_failure(errno_code(error), path);
    return {};
  }

 private:
  std::vector<std::string> made_;
};

bool is_address(const std::string& host) {
  std::array<unsigned char, sizeof(in6_addr)> ignored;
  return ::inet_pton(AF_INET, host.c_str(), ignored.data()) == 1 ||
         ::inet_pton(AF_INET6, host.c_str(), ignored.data()) == 1;
}

/// What goes into extensions has a syntax of its own, in which these stand for themselves.
bool is_host(std::string_view host) {
  return !host.empty() && host.size() <= 253 && std::ranges::all_of(host, [](char each) {
    return (each >= 'a' && each <= 'z') || (each >= 'A' && each <= 'Z') || (each >= '0' && each <= '9') ||
           each == '.' || each == '-' || each == ':' || each == '*' || each == '_';
  });
}

/// Names of clients: also names of folders and of keys.
bool is_client_name(std::string_view name) {
  return is_host(name) && name.size() <= 64 && name.find(':') == std::string_view::npos &&
         !name.starts_with('.');
}

std::string text_of(const memory_pointer& memory) {
  char* data = nullptr;
  const long length = BIO_get_mem_data(memory.get(), &data);
  return {data, static_cast<std::size_t>(length)};
}

std::string pem_of(const identity& whose, bool key) {
  const memory_pointer memory(BIO_new(BIO_s_mem()));
  if (key) {
    PEM_write_bio_PKCS8PrivateKey(memory.get(), whose.key.get(), nullptr, nullptr, 0, nullptr, nullptr);
  } else {
    PEM_write_bio_X509(memory.get(), whose.certificate.get());
  }
  return text_of(memory);
}

bool add_extension(const identity& to, const identity& issuer, const extension& what) {
  X509V3_CTX context;
  X509V3_set_ctx(&context, issuer.certificate.get(), to.certificate.get(), nullptr, nullptr, 0);
  const extension_pointer made(X509V3_EXT_conf_nid(nullptr, &context, what.kind, what.value.c_str()));
  return made && X509_add_ext(to.certificate.get(), made.get(), -1) == 1;
}

bool set_name(X509* certificate, const std::string& name) {
  const auto* const text = reinterpret_cast<const unsigned char*>(name.data());
  return X509_NAME_add_entry_by_txt(X509_get_subject_name(certificate), "CN", MBSTRING_UTF8, text,
                                    static_cast<int>(name.size()), -1, 0) == 1;
}

/// Signed by `issuer`, or by itself where that is null.
outcome<identity> make_identity(const std::string& name, const identity* issuer, unsigned days,
                                const std::vector<extension>& extensions) {
  identity made{key_pointer(EVP_EC_gen("P-256")), certificate_pointer(X509_new())};
  const identity& signer = issuer == nullptr ? made : *issuer;
  X509* const certificate = made.certificate.get();
  std::uint64_t serial = 0;
  const bool begun = made.key != nullptr && certificate != nullptr &&
                     X509_set_version(certificate, X509_VERSION_3) == 1 &&
                     RAND_bytes(reinterpret_cast<unsigned char*>(&serial), sizeof serial) == 1 &&
                     ASN1_INTEGER_set_uint64(X509_get_serialNumber(certificate), serial >> 1) == 1 &&
                     X509_gmtime_adj(X509_getm_notBefore(certificate), -backdated_s) != nullptr &&
                     X509_gmtime_adj(X509_getm_notAfter(certificate), days * seconds_per_day) != nullptr &&
                     set_name(certificate, name) && X509_set_pubkey(certificate, made.key.get()) == 1 &&
                     X509_set_issuer_name(certificate, X509_get_subject_name(signer.certificate.get())) == 1;
  const bool extended = begun && std::ranges::all_of(extensions, [&](const extension& each) {
                          return add_extension(made, signer, each);
                        });
  if (!extended || X509_sign(certificate, signer.key.get(), EVP_sha256()) == 0) {
    return tls_failure("certificate for " + name);
  }
  return made;
}

outcome<identity> make_authority(unsigned days) {
  return make_identity("weir certificate authority", nullptr, days,
                       {{NID_basic_constraints, "critical,CA:TRUE"},
                        {NID_key_usage, "critical,keyCertSign,cRLSign"},
                        {NID_subject_key_identifier, "hash"}});
}

outcome<identity> make_server(const tls_plan& plan, const identity& authority) {
  std::string names;
  for (const std::string& host : plan.hosts) {
    names += (names.empty() ? "" : ",") + std::string(is_address(host) ? "IP:" : "DNS:") + host;
  }
  return make_identity(plan.hosts.front(), &authority, plan.days,
                       {{NID_basic_constraints, "critical,CA:FALSE"},
                        {NID_key_usage, "critical,digitalSignature,keyEncipherment"},
                        {NID_ext_key_usage, "serverAuth"},
                        {NID_subject_alt_name, names},
                        {NID_subject_key_identifier, "hash"},
                        {NID_authority_key_identifier, "keyid"}});
}

outcome<identity> make_client(const tls_plan& plan, const identity& authority) {
  return make_identity(plan.client, &authority, plan.days,
                       {{NID_basic_constraints, "critical,CA:FALSE"},
                        {NID_key_usage, "critical,digitalSignature,keyEncipherment"},
                        {NID_ext_key_usage, "clientAuth"},
                        {NID_subject_key_identifier, "hash"},
                        {NID_authority_key_identifier, "keyid"}});
}

outcome<std::string> make_psk_line(const std::string& name) {
  std::array<unsigned char, psk_bytes> key;
  if (RAND_bytes(key.data(), static_cast<int>(key.size())) != 1) return tls_failure("key for " + name);
  std::string line = name + ":";
  constexpr std::string_view digits = "0123456789abcdef";
  for (const unsigned char each : key) {
    line += digits[each >> 4];
    line += digits[each & 15];
  }
  return line + "\n";
}

outcome<void> write_identity(new_files& files, const std::string& stem, const identity& whose) {
  if (auto done = files.write(stem + "-key.pem", pem_of(whose, true), 0600); !done) return done;
  return files.write(stem + "-cert.pem", pem_of(whose, false), 0644);
}

outcome<void> make_directory(const std::string& path) {
  if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) return make_failure(errno_code(errno), path);
  return {};
}

outcome<void> check(const tls_plan& plan) {
  for (const std::string& host : plan.hosts) {
    if (!is_host(host))
      return make_failure(errno_code(EINVAL), "'" + host + "'", "not a host name or address");
  }
  if (!is_client_name(plan.client)) {
    return make_failure(errno_code(EINVAL), "'" + plan.client + "'",
                        "not a client name: at most 64 letters, digits and -._*");
  }
  if (plan.days == 0 || plan.days > 36'500) {
    return make_failure(errno_code(EINVAL), std::to_string(plan.days), "not between 1 and 36500 days");
  }
  return {};
}

std::string read_whole(const std::string& path) {
  const std::unique_ptr<BIO, freer<BIO_free_all>> file(BIO_new_file(path.c_str(), "r"));
  std::string text;
  std::array<char, 4096> piece;
  int length = 0;
  while (file && (length = BIO_read(file.get(), piece.data(), piece.size())) > 0) {
    text.append(piece.data(), static_cast<std::size_t>(length));
  }
  return text;
}

outcome<identity> load_authority(const std::string& directory) {
  identity loaded;
  for (const bool key : {true, false}) {
    const std::string path = directory + (key ? "/ca-key.pem" : "/ca-cert.pem");
    const memory_pointer file(BIO_new_file(path.c_str(), "r"));
    if (!file) return make_failure(errno_code(errno == 0 ? EIO : errno), path);
    if (key) {
      // No question on the terminal where the key has a passphrase.
      char none[] = "";
      loaded.key.reset(PEM_read_bio_PrivateKey(file.get(), nullptr, nullptr, none));
    } else {
      loaded.certificate.reset(PEM_read_bio_X509(file.get(), nullptr, nullptr, nullptr));
    }
    if (key ? !loaded.key : !loaded.certificate) return tls_failure(path);
  }
  return loaded;
}

outcome<void> append(const std::string& path, const std::string& line) {
  const int file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (file < 0) return make_failure(errno_code(errno), path);
  const bool done =
      ::write(file, line.data(), line.size()) == static_cast<ssize_t>(line.size()) && ::fsync(file) == 0;
  const int error = errno;
  ::close(file);
  if (!done) return make_failure(errno_code(error), path);
  return {};
}

}  // namespace

outcome<void> make_tls_files(const tls_plan& plan) {
  if (auto checked = check(plan); !checked) return checked;
  if (auto made = make_directory(plan.directory); !made) return made;
  const outcome<identity> authority = make_authority(plan.days);
  if (!authority) return authority.error();
  const outcome<identity> server = make_server(plan, *authority);
  if (!server) return server.error();
  const outcome<identity> client = make_client(plan, *authority);
  if (!client) return client.error();
  const outcome<std::string> key = make_psk_line(plan.client);
  if (!key) return key.error();
  new_files files;
  const std::string beginning = plan.directory + "/";
  if (auto done = write_identity(files, beginning + "ca", *authority); !done) return done;
  if (auto done = write_identity(files, beginning + "server", *server); !done) return done;
  if (auto done = write_identity(files, beginning + "client", *client); !done) return done;
  if (auto done = files.write(beginning + "keys.psk", *key, 0600); !done) return done;
  files.keep();
  return {};
}

outcome<void> add_tls_client(const tls_plan& plan) {
  if (auto checked = check(plan); !checked) return checked;
  const outcome<identity> authority = load_authority(plan.directory);
  if (!authority) return authority.error();
  const outcome<identity> client = make_client(plan, *authority);
  if (!client) return client.error();
  const outcome<std::string> key = make_psk_line(plan.client);
  if (!key) return key.error();
  const std::string keys = plan.directory + "/keys.psk";
  if (("\n" + read_whole(keys)).find("\n" + plan.client + ":") != std::string::npos) {
    return make_failure(errno_code(EEXIST), keys, "there is a key for '" + plan.client + "' already");
  }
  const std::string folder = plan.directory + "/" + plan.client;
  if (auto made = make_directory(folder); !made) return made;
  new_files files;
  if (auto done = write_identity(files, folder + "/client", *client); !done) return done;
  if (auto done = files.write(folder + "/ca-cert.pem", pem_of(*authority, false), 0644); !done) return done;
  if (auto done = files.write(folder + "/keys.psk", *key, 0600); !done) return done;
  if (auto done = append(keys, *key); !done) return done;
  files.keep();
  return {};
}

}  // namespace weir::nbd
