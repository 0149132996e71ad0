// Executes the requests of one connection on its disk, side by side, and queues their replies.
//
// Most requests need no waiting (disk::read_at_once, write_at_once) and are done where they are taken; what one
// receive brought and admission lets in is the most that is done in one go. The others
// run in tasks that are kept: an idle one is handed the next request and runs it at once, up to its
// first suspension, on the caller's stack. So a request that needs no waiting costs no turn of the executor
// and no new task.
#pragma once

#include "engine/base/buffer_pool.hpp"
#include "engine/base/task_group.hpp"
#include "engine/block/disk.hpp"
#include "engine/nbd/export_table.hpp"
#include "engine/nbd/handshake.hpp"
#include "engine/nbd/read_plan.hpp"
#include "engine/nbd/reply_sender.hpp"
#include "engine/nbd/request_rules.hpp"

#include <functional>
#include <vector>

namespace weir::nbd {

class request_runner {
 public:
  /// All references outlive the runner.
  request_runner(const export_entry& served, const session_terms& terms, buffer_pool& buffers,
                 reply_sender& replies);

  /// Runs a request that rule_on() let through; `payload` is what came with it. Its reply carries `charge_bytes`.
  void start(const request& asked, buffer_lease payload, std::uint32_t charge_bytes);

  /// Answers without executing.
  void answer(const request& asked, wire_error error, std::string_view why, std::uint32_t charge_bytes);

  /// Waits until every request started has its reply queued. Nothing may be started any more.
  task<void> finish();

 private:
  struct job {
    request asked;
    buffer_lease payload;
    std::uint32_t charge_bytes = 0;
  };

  bool is_done_at_once(job& next);
  bool send_from_file(const job& current);
  bool read_at_once(const job& current);
  task<void> work(job first);
  task<void> execute(job& current);
  task<void> read(const job& current);
  task<result<std::vector<read_piece>>> read_pieces(const request& asked, std::span<std::byte> into);
  task<void> write_zeroes(const job& current);
  task<void> block_status(const job& current);
  task<result<std::vector<status_extent>>> bitmap_extents(std::string name, byte_range range,
                                                          std::size_t most);

  bool wants_hole_search(const request& asked) noexcept;
  reply_frame frame_of(const request& asked) const noexcept {
    return {asked.cookie, asked.offset, terms_.extended};
  }
  void answer_read(const job& current, std::span<const read_piece> pieces, buffer_lease data);
  void complete(const job& current, const result<void>& done, bool fast_zero = false);
  void queue(reply_part part, std::uint32_t charge_bytes);

  const export_entry& served_;
  disk& disk_;
  const session_terms& terms_;
  buffer_pool& buffers_;
  reply_sender& replies_;
  hole_search holes_;
  task_group workers_;
  std::vector<resumption> idle_;
  job handed_over_;  // to the idle worker being resumed
  bool finishing_ = false;
};

}  // namespace weir::nbd
