#include "cli/option_set.hpp"
#include "cli/verbs.hpp"
#include "engine/nbd/tls_certificates.hpp"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <utility>

namespace weir::cli {
namespace {

/// The names under which clients on this machine and elsewhere find it.
std::vector<std::string> own_names() {
  std::vector<std::string> names;
  std::array<char, 256> name{};
  if (::gethostname(name.data(), name.size() - 1) == 0 && name[0] != 0) names.emplace_back(name.data());
  for (const char* const local : {"localhost", "127.0.0.1", "::1"}) {
    if (std::ranges::find(names, local) == names.end()) names.emplace_back(local);
  }
  return names;
}

void declare(option_set& options) {
  options
      .values("host", "NAME|ADDRESS",
              "With init: a name or address by which clients reach the server; the certificate holds for "
              "these only. "
              "May be given several times. Default: the name of this machine, localhost, 127.0.0.1 and ::1.")
      .value("client", "NAME",
             "Name of the client: common name of its certificate, and name of its key (default `client`).")
      .value("days", "N", "How long the certificates are valid (default 3650).")
      .argument("ACTION", "init or add-client.")
      .argument("DIR", "The directory; init makes it if it is missing.");
}

outcome<int> run(const given_options& given) {
  nbd::tls_plan plan;
  plan.directory = *given.value("DIR");
  plan.hosts = given.values("host");
  const auto days = given.number("days");
  if (days.has_error()) return days.error();
  constexpr std::uint64_t most_days = 36'500;
  if (*days) plan.days = static_cast<unsigned>(std::min(**days, most_days + 1));
  const std::string action = *given.value("ACTION");
  const auto client = given.value("client");
  if (client) plan.client = *client;
  outcome<void> done;
  if (action == "init") {
    if (plan.hosts.empty()) plan.hosts = own_names();
    done = nbd::make_tls_files(plan);
  } else if (action == "add-client") {
    if (!client) return usage_failure("add-client wants --client NAME");
    if (!plan.hosts.empty()) return usage_failure("--host goes with init");
    done = nbd::add_tls_client(plan);
  } else {
    return usage_failure("'" + action + "' is not init or add-client");
  }
  if (done.has_error()) return done.error();
  return exit_done;
}

}  // namespace

verb tls_verb() {
  return {
      .name = "tls",
      .synopsis =
          "init [--host NAME|ADDRESS]... [--client NAME] [--days N] DIR | add-client --client NAME DIR",
      .summary = "make what TLS for NBD needs: an authority, certificates and keys",
      .description =
          "init makes, in DIR, a certificate authority, a certificate for the server, one for a client, and "
          "a "
          "pre-shared key, under the names that QEMU and weir look for: ca-cert.pem, ca-key.pem, "
          "server-cert.pem, "
          "server-key.pem, client-cert.pem, client-key.pem and keys.psk. Nothing that exists is replaced. "
          "Private "
          "keys are readable by their owner only.\n\nThe server runs with `weir serve --tls-creds DIR`; a "
          "client "
          "needs ca-cert.pem, client-cert.pem and client-key.pem, or keys.psk, and nothing else: ca-key.pem "
          "makes "
          "new clients and should leave the server.\n\nadd-client makes a certificate and a key for one more "
          "client, in DIR/NAME, and adds the key to DIR/keys.psk; a running server reads its files only when "
          "it "
          "starts.",
      .declare = declare,
      .run = run};
}

}  // namespace weir::cli
