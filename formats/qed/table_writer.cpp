#include "formats/qed/table_writer.hpp"

#include <cstddef>

namespace weir::qed {
namespace {

constexpr std::size_t largest_write_bytes = std::size_t{1} << 20;

}  // namespace

task<result<void>> table_writer::flush() {
  const std::uint64_t wanted = begun_count_ + 1;
  while (begun_count_ != ended_count_ && ended_count_ < wanted) co_await pass_ended_.wait();
  // Someone else's pass that began after this call serves as well.
  if (ended_count_ >= wanted) co_return last_result_;
  ++begun_count_;
  last_result_ = co_await run_pass();
  ++ended_count_;
  pass_ended_.notify_all();
  co_return last_result_;
}

task<result<void>> table_writer::run_pass() {
  const frozen_slices frozen = slices_.freeze();
  const result<void> written = co_await write_in_order(frozen);
  slices_.settle(written.has_value());
  co_return written;
}

task<result<void>> table_writer::write_in_order(const frozen_slices& frozen) {
  const result<void> settled = co_await file_.flush();
  if (!settled || frozen.empty()) co_return settled;
  const result<void> pointed = co_await write_slices(frozen);
  if (!pointed) co_return pointed.error();
  co_return co_await file_.flush();
}

task<result<void>> table_writer::write_slices(const frozen_slices& slices) {
  std::vector<std::byte> joined;
  for (auto next = slices.begin(); next != slices.end();) {
    const std::uint64_t offset = next->offset;
    joined.clear();
    for (; next != slices.end() && next->offset == offset + joined.size(); ++next) {
      if (joined.size() + next->bytes->size() > largest_write_bytes) break;
      joined.insert(joined.end(), next->bytes->begin(), next->bytes->end());
    }
    const result<void> wrote = co_await file_.write(offset, joined);
    if (!wrote) co_return wrote.error();
  }
  co_return result<void>{};
}

}  // namespace weir::qed
