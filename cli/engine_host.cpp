#include "cli/engine_host.hpp"

#include "cli/verb.hpp"
#include "engine/block/backing_name.hpp"
#include "engine/block/chain.hpp"
#include "formats/registry.hpp"

#include <boost/asio/as_tuple.hpp>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

namespace weir::cli {
namespace {

constexpr std::size_t buffer_limit_bytes = std::size_t{256} << 20;

/// More than processors: workers wait for devices too.
unsigned worker_count() {
  return std::clamp(2 * std::thread::hardware_concurrency(), 4U, 16U);
}

}  // namespace

engine_host::engine_host()
    : workers_(io_.get_executor(), worker_count()),
      buffers_(io_.get_executor(), buffer_limit_bytes),
      signals_(io_.get_executor(), SIGINT, SIGTERM),
      woken_(io_.get_executor()) {}

engine_host::~engine_host() = default;

outcome<std::unique_ptr<engine_host>> engine_host::create(aio_mode mode) {
  std::unique_ptr<engine_host> host(new engine_host);
  auto files = make_file_io(host->context(), host->workers_, mode);
  if (files.has_error()) return files.error();
  host->files_ = std::move(*files);
  return host;
}

storage_opener engine_host::opener(opener_settings settings) {
  return make_storage_opener(*files_, std::move(settings));
}

outcome<int> engine_host::run(task<outcome<int>> work) {
  std::optional<outcome<int>> answer;
  std::exception_ptr thrown;
  start_task(context(), watch_signals(), [](std::exception_ptr) {});
  const auto whole = [&answer](task<outcome<int>> asked) -> task<void> {
    answer.emplace(co_await std::move(asked));
  };
  start_task(context(), whole(std::move(work)), [&](std::exception_ptr error) {
    thrown = error;
    ended_ = true;
    signals_.cancel();
  });
  while (!ended_) io_.run_one();
  if (thrown) std::rethrow_exception(thrown);
  return std::move(*answer);
}

task<void> engine_host::watch_signals() {
  const auto [error, number] = co_await signals_.async_wait(boost::asio::as_tuple(use_task));
  if (error) co_return;
  if (undo_) {
    undo_();
    std::fputs("weir: interrupted\n", stderr);
    std::_Exit(exit_failed);
  }
  interrupted_ = true;
  boost::system::error_code ignored;
  signals_.clear(ignored);
  woken_.notify_all();
}

void engine_host::let_signals_kill() {
  boost::system::error_code ignored;
  signals_.clear(ignored);
}

task<void> engine_host::wait_for_interrupt() {
  if (!interrupted_) co_await woken_.wait();
}

void engine_host::end_waiting() {
  woken_.notify_all();
}

failure interrupted_failure(const std::string& what) {
  return make_failure(errc::cancelled, what, "interrupted");
}

outcome<layer_model> parse_image(const std::string& image, const image_settings& settings) {
  auto named = parse_image_name(image);
  if (named.has_error()) return named.error();
  if (!settings.format.empty()) named->format = settings.format;
  return named;
}

task<outcome<std::vector<std::shared_ptr<layer>>>> open_layers(engine_host& host, layer_model top,
                                                               image_settings settings) {
  disk_model described;
  described.layers.push_back(std::move(top));
  described.terminated = settings.alone;
  open_chain_options options;
  options.read_only = !settings.writable;
  options.probe_active = true;
  options.allow_remote_backing = settings.allow_remote_backing;
  options.image.snapshot = settings.snapshot;
  options.image.bitmaps = settings.bitmaps;
  options.image.passphrase = settings.passphrase;
  const storage_opener opener = host.opener(settings.storage);
  co_return co_await open_chain(described, formats(), opener, options);
}

task<outcome<void>> use_image(engine_host& host, std::string name, image_settings settings,
                              std::function<task<outcome<void>>(image&)> use) {
  settings.alone = true;
  outcome<layer_model> top = parse_image(name, settings);
  if (top.has_error()) co_return top.error();
  auto layers = co_await open_layers(host, std::move(*top), std::move(settings));
  if (layers.has_error()) co_return layers.error();
  outcome<void> done = co_await use(*layers->front()->image);
  const result<void> closed = co_await close_layers(*layers);
  if (done.has_value() && closed.has_error()) done = make_failure(closed.error(), name);
  co_return done;
}

std::unique_ptr<disk> make_disk(engine_host& host, std::vector<std::shared_ptr<layer>> layers,
                                std::string name, bool read_only) {
  disk_settings settings;
  settings.name = std::move(name);
  settings.read_only = read_only;
  return std::make_unique<disk>(host.resources(), std::make_unique<chain>(std::move(layers)),
                                std::move(settings));
}

task<outcome<std::unique_ptr<disk>>> open_disk(engine_host& host, std::string image,
                                               image_settings settings) {
  outcome<layer_model> top = parse_image(image, settings);
  if (top.has_error()) co_return top.error();
  auto layers = co_await open_layers(host, std::move(*top), settings);
  if (layers.has_error()) co_return layers.error();
  co_return make_disk(host, std::move(*layers), std::move(image), !settings.writable);
}

task<outcome<void>> close_disk(disk& closing) {
  const result<void> closed = co_await closing.close();
  if (closed.has_error()) co_return make_failure(closed.error(), closing.name());
  co_return outcome<void>{};
}

}  // namespace weir::cli
