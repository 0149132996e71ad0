// The connections to one NBD export, kept up.
//
// A lost connection is replaced in the background, with growing pauses, for as long as the link is open. While none is left
// (an outage), whoever wants one waits, but not beyond the reconnect limit; after that it fails at once until the
// server is back. An export that comes back with other facts is not the one that was lost: the link fails for good.
#pragma once

#include "engine/base/async_event.hpp"
#include "engine/base/error.hpp"
#include "engine/base/task.hpp"
#include "engine/base/task_group.hpp"
#include "engine/base/timer.hpp"
#include "engine/base/worker_pool.hpp"
#include "engine/storage/nbd_connection.hpp"
#include "engine/storage/nbd_target.hpp"

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

namespace weir {

class nbd_link {
 public:
  /// Precondition: `workers` outlives the link.
  nbd_link(executor context, worker_pool& workers, nbd_target target, nbd_client_settings settings);
  nbd_link(const nbd_link&) = delete;
  nbd_link& operator=(const nbd_link&) = delete;

  /// The first connections. Failures name the target; nothing is left open then.
  task<outcome<void>> connect();

  const nbd_target& target() const noexcept { return target_; }
  /// Of the first connection. Precondition: connect() succeeded.
  const nbd_export_facts& facts() const noexcept { return facts_; }

  /// The usable connection with the least in flight; waits in an outage. Errors: ETIMEDOUT after the reconnect limit;
  /// ESTALE if the export has changed; closed.
  task<result<std::shared_ptr<nbd_connection>>> acquire();

  /// How many connections were lost so far. The server may have been restarted with any of them: what it had answered
  /// but not made durable before may be gone, even if other connections were never all down at once.
  std::uint64_t loss_count() const noexcept;

  /// Ends the repair and every connection. Precondition: no request is in flight.
  task<void> close();

 private:
  using clock = std::chrono::steady_clock;

  std::shared_ptr<nbd_connection> least_busy() const noexcept;
  bool is_complete() const noexcept;
  void start_repair();
  task<void> repair();
  task<bool> replace_one();
  void note_outage();

  executor executor_;
  worker_pool& workers_;
  nbd_target target_;
  nbd_client_settings settings_;
  nbd_export_facts facts_;
  std::vector<std::shared_ptr<nbd_connection>> connections_;
  std::optional<clock::time_point> outage_since_;
  std::uint64_t replaced_count_ = 0;
  bool repairing_ = false;
  bool closing_ = false;
  bool changed_export_ = false;
  timer pause_timer_;
  timer limit_timer_;
  async_event restored_;
  task_group tasks_;
};

}  // namespace weir
