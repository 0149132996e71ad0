// The engine that one command runs: the io_context and what all its disks share, and the signals that end it.
#pragma once

#include "engine/base/async_event.hpp"
#include "engine/base/buffer_pool.hpp"
#include "engine/base/error.hpp"
#include "engine/base/task.hpp"
#include "engine/base/worker_pool.hpp"
#include "engine/block/disk.hpp"
#include "engine/block/model.hpp"
#include "engine/block/open_chain.hpp"
#include "engine/block/resources.hpp"
#include "engine/block/storage_openers.hpp"
#include "engine/storage/file_io.hpp"

#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>

#include <functional>
#include <memory>
#include <string>

namespace weir::cli {

/// How a command opens one image or chain.
struct image_settings {
  std::string format;  ///< empty: probed
  bool writable = false;
  bool allow_remote_backing = false;
  bool alone = false;         ///< only the named image, not its backing chain
  std::string snapshot = {};  ///< ID or name of the internal snapshot to show instead of the current state
  bitmap_care bitmaps = bitmap_care::record;  ///< of an image opened for writing
  opener_settings storage;
  std::shared_ptr<const std::string> passphrase = nullptr;  ///< of encrypted images of the chain; may be null
};

class engine_host {
 public:
  static outcome<std::unique_ptr<engine_host>> create(aio_mode mode = aio_mode::automatic);
  ~engine_host();
  engine_host(const engine_host&) = delete;
  engine_host& operator=(const engine_host&) = delete;

  executor context() noexcept { return io_.get_executor(); }
  engine_resources resources() noexcept {
    return {context(), buffers_, workers_, report_ ? &report_ : nullptr};
  }
  /// Told of errors that reach a guest only as a number. Before the first disk is made.
  void set_report(std::function<void(const failure&)> report) { report_ = std::move(report); }
  file_io& files() noexcept { return *files_; }
  storage_opener opener(opener_settings settings);

  /// Runs the engine until `work` has ended and returns what it returned.
  outcome<int> run(task<outcome<int>> work);

  /// SIGINT and SIGTERM end the process at once: for verbs that change nothing.
  void let_signals_kill();
  /// While there is an `undo`, SIGINT and SIGTERM call it and end the process with exit_failed: for work that cannot
  /// be asked to stop. Empty: no more.
  void set_undo(std::function<void()> undo) { undo_ = std::move(undo); }
  /// SIGINT or SIGTERM came: commands end their work soon and undo what is half done. A second one kills.
  bool interrupted() const noexcept { return interrupted_; }
  /// Suspends until interrupted or until end_waiting() is called.
  task<void> wait_for_interrupt();
  void end_waiting();

 private:
  engine_host();
  task<void> watch_signals();

  boost::asio::io_context io_{1};
  worker_pool workers_;
  buffer_pool buffers_;
  std::unique_ptr<file_io> files_;
  std::function<void(const failure&)> report_;
  boost::asio::basic_signal_set<executor> signals_;
  std::function<void()> undo_;
  async_event woken_;
  bool interrupted_ = false;
  bool ended_ = false;
};

/// The failure of a command that was interrupted.
failure interrupted_failure(const std::string& what);

/// What a user's words describe: one layer, format as settings say.
outcome<layer_model> parse_image(const std::string& image, const image_settings& settings);

/// Opens the layer and (unless `alone`) what lies below it. `host` must outlive the task.
task<outcome<std::vector<std::shared_ptr<layer>>>> open_layers(engine_host& host, layer_model top,
                                                               image_settings settings);

/// Opens one image that a user named, without its backing chain, and closes it when `use` is done with it. `host`
/// must outlive the task.
task<outcome<void>> use_image(engine_host& host, std::string name, image_settings settings,
                              std::function<task<outcome<void>>(image&)> use);

/// The chain of the image a user named, as a disk of that name. `host` must outlive the task and the disk.
task<outcome<std::unique_ptr<disk>>> open_disk(engine_host& host, std::string image, image_settings settings);

std::unique_ptr<disk> make_disk(engine_host& host, std::vector<std::shared_ptr<layer>> layers,
                                std::string name, bool read_only);

/// Closes it; a failure names the disk.
task<outcome<void>> close_disk(disk& closing);

}  // namespace weir::cli
