#include "formats/qcow2/table_pieces.hpp"

#include <algorithm>

namespace weir::qcow2 {
namespace {

constexpr std::uint64_t sector = 512;
constexpr std::uint64_t largest_piece = 256 * KiB;

}  // namespace

task<result<table_pieces::piece>> table_pieces::next() {
  const std::uint64_t end = std::min(table_.end(), std::max(file_.size(), table_.offset));
  while (at_ < end) {
    const byte_range rest = range_between(at_, end);
    const result<storage_run> run = co_await file_.status(rest);
    if (!run) co_return run.error();
    const std::uint64_t run_end = at_ + std::min(run->length, rest.length);
    if (run->hole && (run_end == end || align_down(run_end, sector) > at_)) {
      at_ = run_end == end ? end : align_down(run_end, sector);
      continue;
    }
    const std::uint64_t wanted_end = std::min(std::max(align_up(run_end, sector), at_ + sector), end);
    const std::uint64_t length = std::min(wanted_end - at_, largest_piece);
    buffer_.resize(static_cast<std::size_t>(length));
    const result<void> got = co_await file_.read(at_, buffer_);
    if (!got) co_return got.error();
    const piece found{at_, buffer_};
    at_ += length;
    co_return found;
  }
  co_return piece{};
}

}  // namespace weir::qcow2
