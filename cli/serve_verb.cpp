#include "cli/image_options.hpp"
#include "cli/server.hpp"
#include "cli/verbs.hpp"

#include <memory>
#include <utility>

namespace weir::cli {
namespace {

outcome<cache_mode> read_cache(const std::string& word) {
  if (word == "writeback") return cache_mode::writeback;
  if (word == "none") return cache_mode::none;
  if (word == "directsync") return cache_mode::directsync;
  return usage_failure("cache: '" + word + "' is not writeback, none or directsync");
}

outcome<aio_mode> read_aio(const std::optional<std::string>& word) {
  if (!word) return aio_mode::automatic;
  if (*word == "io_uring") return aio_mode::io_uring;
  if (*word == "threads") return aio_mode::threads;
  return usage_failure("aio: '" + *word + "' is not io_uring or threads");
}

/// What clients have to prove, and which of them may open what.
outcome<void> read_security(const given_options& given, serve_request& request) {
  const std::vector<std::string> rules = given.values("tls-allow");
  const auto directory = given.value("tls-creds");
  if (!directory) {
    if (!rules.empty())
      return usage_failure("--tls-allow wants --tls-creds: without TLS nobody proves anything");
    return {};
  }
  auto loaded = nbd::tls_credentials::load(*directory);
  if (loaded.has_error()) return failure{loaded.error().code, "--tls-creds: " + loaded.error().what};
  request.policy.credentials = std::move(*loaded);
  if (rules.empty()) return {};
  nbd::access_list access;
  for (const std::string& rule : rules) {
    if (auto added = access.allow(rule); added.has_error())
      return usage_failure("tls-allow: " + added.error().what);
  }
  request.policy.access = std::make_shared<const nbd::access_list>(std::move(access));
  return {};
}

outcome<void> read_limits(const given_options& given, serve_request& request) {
  const auto connections = given.number("max-connections");
  if (connections.has_error()) return connections.error();
  constexpr std::uint64_t most = 1'000'000;
  if (*connections && **connections > most)
    return usage_failure("max-connections: not between 0 and 1000000");
  if (*connections) request.limits.most_connections = static_cast<unsigned>(**connections);
  return {};
}

outcome<void> read_sockets(const given_options& given, serve_request& request) {
  request.control_path = given.value("control").value_or("");
  for (const auto& [option, into] : {std::pair{"nbd", &request.nbd}, {"nbd-plain", &request.plain_nbd}}) {
    for (const std::string& text : given.values(option)) {
      auto address = nbd::parse_listen_address(text);
      if (address.has_error()) return usage_failure(std::string(option) + ": " + address.error().what);
      into->push_back(std::move(*address));
    }
  }
  request.passed = take_passed_sockets();
  if (request.control_path.empty() && request.nbd.empty() && request.plain_nbd.empty() &&
      request.passed.empty()) {
    return usage_failure("nothing to serve on: give --nbd, --control or both");
  }
  return {};
}

outcome<serve_request> read_request(const given_options& given) {
  serve_request request;
  request.named = *given.value("SOURCE");
  auto image = read_image_options(given);
  if (image.has_error()) return image.error();
  request.image = *image;
  request.image.writable = !given.has("read-only");
  if (const auto directory = given.value("image-tls-creds")) request.image.storage.tls_directory = *directory;
  auto cache = read_cache(given.value("cache").value_or("writeback"));
  if (cache.has_error()) return cache.error();
  request.image.storage.cache = *cache;
  request.state_directory = given.value("state").value_or("");
  request.export_name = given.value("export");
  request.bitmaps = given.values("bitmap");
  request.copy_on_read = given.has("copy-on-read");
  request.update_xml = given.has("update-xml");
  if (request.copy_on_read && !request.image.writable)
    return usage_failure("--copy-on-read wants a writable image, not --read-only");
  if (auto limits = read_limits(given, request); limits.has_error()) return limits.error();
  if (auto sockets = read_sockets(given, request); sockets.has_error()) return sockets.error();
  if (auto security = read_security(given, request); security.has_error()) return security.error();
  return request;
}

task<outcome<int>> serve(engine_host& host, serve_request request) {
  server running(host, std::move(request));
  co_return co_await running.run();
}

void declare(option_set& options) {
  declare_image_options(
      options,
      "Serve NBD over TLS only, with the files that QEMU looks for there: ca-cert.pem, "
      "server-cert.pem and server-key.pem (clients show a certificate of that CA), or keys.psk, "
      "or both; `weir tls init DIR` makes them. nbds:// images are opened with the client's "
      "files in the same place.");
  options.value("control", "SOCK", "Listen for QMP there.")
      .values("nbd", "unix:PATH|tcp:HOST:PORT", "Listen for NBD clients there. May be given several times.")
      .values("nbd-plain", "unix:PATH|tcp:HOST:PORT",
              "As --nbd, but without TLS beside --tls-creds, and for every client that reaches it: for a "
              "socket that "
              "only the guest's QEMU can open.")
      .flag("copy-on-read", "Keep what is read from backing images in the active one.")
      .flag("update-xml", "Write the domain XML back, atomically, when a job has changed a disk's chain.")
      .flag("read-only", "Open everything for reading only.")
      .value("cache", "MODE", "writeback (default), none (O_DIRECT) or directsync.")
      .value("aio", "MODE", "io_uring or threads; by default io_uring where the kernel allows it.")
      .value("state", "DIR",
             "Keep job records there; jobs found there go on by themselves. Created if missing.")
      .value("export", "NAME", "Name of the export of a plain image; default is the empty name.")
      .values("bitmap,B", "NAME",
              "Show this dirty bitmap of the active image to NBD clients, as qemu:dirty-bitmap:NAME. May be "
              "given "
              "several times.")
      .values(
          "tls-allow", "CLIENT=EXPORT",
          "With --tls-creds: this client may open this export (* for all), and nobody may open what no such "
          "option allows. A client is the common name of its certificate or the name of its key. May be "
          "given "
          "several times.")
      .value("image-tls-creds", "DIR", "Where the files for nbds:// images are, if not in --tls-creds.")
      .value("max-connections", "N",
             "NBD clients at a time (default 100, 0 for no limit). One more takes the place of the oldest "
             "that has "
             "not chosen an export, or is turned away.")
      .argument("SOURCE", "A domain XML file or an image.");
}

outcome<int> run(const given_options& given) {
  auto aio = read_aio(given.value("aio"));
  if (aio.has_error()) return aio.error();
  auto request = read_request(given);
  if (request.has_error()) return request.error();
  auto host = engine_host::create(*aio);
  if (host.has_error()) return host.error();
  return (*host)->run(serve(**host, std::move(*request)));
}

}  // namespace

verb serve_verb() {
  return {.name = "serve",
          .synopsis =
              "[--control SOCK] [--nbd unix:PATH | tcp:HOST:PORT]... [--nbd-plain ADDRESS]... "
              "[--copy-on-read] [--read-only] "
              "[--update-xml] "
              "[--cache MODE] [--aio MODE] [--state DIR] [--export NAME] [--bitmap NAME]... [--tls-creds DIR "
              "[--tls-allow CLIENT=EXPORT]...] [--max-connections N] [-f FMT] DOMAIN.xml | IMAGE",
          .summary = "serve disks to a guest over NBD",
          .description =
              "Runs in the foreground and prints the line `weir: ready` once all sockets listen. "
              "SIGTERM and SIGINT let requests in flight finish, flush and end.\n\nEach disk of a "
              "domain is an export named by its target, e.g. vda. A plain image is one export, named "
              "by --export. That name is also the disk's node name on the control socket and the id "
              "of its job.\n\nWith --tls-creds nothing is listed or opened before TLS is up, on any socket "
              "but those of --nbd-plain. Why a client was refused is said on standard error.\n\nA socket "
              "file left by a killed server is "
              "replaced. Sockets passed by "
              "systemd are used; one named `control` in LISTEN_FDNAMES is the control socket.",
          .declare = declare,
          .run = run};
}

}  // namespace weir::cli
