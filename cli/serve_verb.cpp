#include "cli/image_options.hpp"
#include "cli/server.hpp"
#include "cli/verbs.hpp"

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

outcome<void> read_sockets(const given_options& given, serve_request& request) {
  request.control_path = given.value("control").value_or("");
  for (const std::string& text : given.values("nbd")) {
    auto address = nbd::parse_listen_address(text);
    if (address.has_error()) return usage_failure("nbd: " + address.error().what);
    request.nbd.push_back(std::move(*address));
  }
  request.passed = take_passed_sockets();
  if (request.control_path.empty() && request.nbd.empty() && request.passed.empty()) {
    return usage_failure("nothing to serve on: give --nbd, --control or both");
  }
  return {};
}

outcome<serve_request> read_request(const given_options& given) {
  serve_request request;
  request.named = *given.value("SOURCE");
  if (given.has("tls-creds"))
    return make_failure(errc::unsupported_feature, "--tls-creds", "TLS is not supported by weir serve yet");
  auto image = read_image_options(given);
  if (image.has_error()) return image.error();
  request.image = *image;
  request.image.writable = !given.has("read-only");
  auto cache = read_cache(given.value("cache").value_or("writeback"));
  if (cache.has_error()) return cache.error();
  request.image.storage.cache = *cache;
  request.state_directory = given.value("state").value_or("");
  request.export_name = given.value("export").value_or("");
  request.copy_on_read = given.has("copy-on-read");
  request.update_xml = given.has("update-xml");
  if (request.copy_on_read && !request.image.writable)
    return usage_failure("--copy-on-read wants a writable image, not --read-only");
  if (auto sockets = read_sockets(given, request); sockets.has_error()) return sockets.error();
  return request;
}

task<outcome<int>> serve(engine_host& host, serve_request request) {
  server running(host, std::move(request));
  co_return co_await running.run();
}

void declare(option_set& options) {
  declare_image_options(options);
  options.value("control", "SOCK", "Listen for QMP there.")
      .values("nbd", "unix:PATH|tcp:HOST:PORT", "Listen for NBD clients there. May be given several times.")
      .flag("copy-on-read", "Keep what is read from backing images in the active one.")
      .flag("update-xml", "Write the domain XML back, atomically, when a job has changed a disk's chain.")
      .flag("read-only", "Open everything for reading only.")
      .value("cache", "MODE", "writeback (default), none (O_DIRECT) or directsync.")
      .value("aio", "MODE", "io_uring or threads; by default io_uring where the kernel allows it.")
      .value("state", "DIR",
             "Keep job records there; jobs found there go on by themselves. Created if missing.")
      .value("export", "NAME", "Name of the export of a plain image; default is the empty name.")
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
              "[--control SOCK] [--nbd unix:PATH | tcp:HOST:PORT]... [--copy-on-read] [--read-only] "
              "[--update-xml] "
              "[--cache MODE] [--aio MODE] [--state DIR] [--export NAME] [-f FMT] DOMAIN.xml | IMAGE",
          .summary = "serve disks to a guest over NBD",
          .description =
              "Runs in the foreground and prints the line `weir: ready` once all sockets listen. "
              "SIGTERM and SIGINT let requests in flight finish, flush and end.\n\nEach disk of a "
              "domain is an export named by its target, e.g. vda. A plain image is one export, named "
              "by --export. That name is also the disk's node name on the control socket and the id "
              "of its job.\n\nA socket file left by a killed server is replaced. Sockets passed by "
              "systemd are used; one named `control` in LISTEN_FDNAMES is the control socket.",
          .declare = declare,
          .run = run};
}

}  // namespace weir::cli
