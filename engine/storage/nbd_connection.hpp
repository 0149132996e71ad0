// One connection to an NBD server: a libnbd handle driven by the engine's thread.
//
// libnbd's handle is a state machine that never blocks. Whoever called it last calls arm(), which waits for what the
// handle wants next (its socket readable, writable) and then tells it so. A request is issued by one nbd_aio_ call; its
// completion runs inside some later call, where no other call on the handle is allowed, so it only posts the
// task that waits. DEAD and CLOSED are final: everything in flight completes with an error then, and a lost connection
// is replaced by a new one (engine/storage/nbd_storage.hpp).
//
// The socket is watched through a duplicate of the handle's descriptor, since libnbd closes and reopens its own while it
// tries the addresses of a host.
//
// Not used: libnbd's own URI parser (the caller has parsed the name) and its blocking calls. The one call that
// may block, resolving a host's name, runs on a worker before anyone else has the handle.
#pragma once

#include "engine/base/async_event.hpp"
#include "engine/base/error.hpp"
#include "engine/base/range.hpp"
#include "engine/base/task.hpp"
#include "engine/base/timer.hpp"
#include "engine/base/worker_pool.hpp"
#include "engine/storage/nbd_target.hpp"

#include <boost/asio/posix/stream_descriptor.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

struct nbd_handle;

namespace weir {

/// What the server said of the export. Equal facts before and after a reconnect mean the same export, as far as a
/// client can tell.
struct nbd_export_facts {
  std::uint64_t size = 0;
  bool read_only = false;
  bool can_flush = false;
  bool can_trim = false;
  bool can_zero = false;
  bool can_multi_conn = false;
  bool has_allocation = false;        ///< base:allocation was granted
  std::uint32_t minimum_block = 1;    ///< power of two; offsets and lengths are multiples of it
  std::uint32_t longest_request = 0;  ///< bytes of payload; a multiple of minimum_block
  friend bool operator==(const nbd_export_facts&, const nbd_export_facts&) = default;
};

/// A run of the export as base:allocation tells it.
struct nbd_run {
  std::uint64_t length = 0;
  bool reads_zero = false;
};

class nbd_connection : public std::enable_shared_from_this<nbd_connection> {
 public:
  /// Connects and negotiates; suspends. Failures name the target. `workers` is used until the answer.
  static task<outcome<std::shared_ptr<nbd_connection>>> open(executor context, worker_pool& workers,
                                                             nbd_target target, nbd_client_settings settings);
  nbd_connection(executor context, nbd_client_settings settings);
  ~nbd_connection();
  nbd_connection(const nbd_connection&) = delete;
  nbd_connection& operator=(const nbd_connection&) = delete;

  const nbd_export_facts& facts() const noexcept { return facts_; }
  /// False once the connection is lost or closed, for good.
  bool is_usable() const noexcept { return usable_; }
  unsigned in_flight() const noexcept { return in_flight_; }

  // One request each. Preconditions: inside the export, multiples of minimum_block, payload at most longest_request, other
  // lengths at most longest_effect. Errors: the server's errno values; anything at all, with is_usable() false afterwards, if the connection was lost meanwhile.

  static constexpr std::uint64_t longest_effect = std::uint64_t{1} << 30;
  static constexpr std::size_t most_runs = 16 * 1024;

  task<result<void>> read(std::uint64_t offset, std::span<std::byte> buffer);
  task<result<void>> write(std::uint64_t offset, std::span<const std::byte> data);
  task<result<void>> zero(byte_range range, bool keep_allocated);
  task<result<void>> trim(byte_range range);
  task<result<void>> flush();
  /// Runs from range.offset on, together no longer than `range`, at least one and at most most_runs.
  task<result<std::vector<nbd_run>>> status(byte_range range);

  /// Gives the connection up: what is in flight fails soon.
  void abandon() noexcept;
  /// Says goodbye and returns when the connection is down. Precondition: nothing is in flight.
  task<void> close();

 private:
  class request;

  outcome<void> configure(const nbd_target& target);
  task<outcome<void>> connect(worker_pool& workers, const nbd_target& target);
  outcome<void> read_facts(const nbd_target& target);
  bool is_over() const noexcept;

  template <class Issue>
  task<result<void>> perform(Issue issue);
  template <class Issue>
  task<result<void>> perform_change(Issue issue);

  void arm();
  void watch();
  void unwatch() noexcept;
  void wait_for_readable();
  void wait_for_writable();
  bool is_readable() noexcept;
  void on_ready(unsigned direction);
  void start_stall_clock();

  executor executor_;
  nbd_client_settings settings_;
  nbd_handle* handle_ = nullptr;
  nbd_export_facts facts_;
  boost::asio::posix::basic_stream_descriptor<executor> socket_;
  std::uint64_t watched_inode_ = 0;
  std::uint64_t watch_number_ = 0;  ///< tells the waits of one descriptor from those of its successor
  bool waits_readable_ = false;
  bool waits_writable_ = false;
  bool usable_ = false;
  bool timed_out_ = false;
  unsigned in_flight_ = 0;
  unsigned changes_in_flight_ = 0;
  std::uint64_t answered_count_ = 0;
  unsigned silent_periods_ = 0;
  timer stall_timer_;
  async_event changed_;
};

}  // namespace weir
