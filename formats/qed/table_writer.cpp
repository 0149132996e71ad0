#include "formats/qed/table_writer.hpp"

#include "engine/base/range.hpp"

#include <algorithm>
#include <iterator>
#include <utility>

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
  frozen_slices early;
  frozen_slices late;
  for (const qcow2::frozen_bytes& each : frozen) (is_new(each.offset) ? early : late).push_back(each);
  // Tables that arrive from here on have their L1 entry in the next pass.
  const std::vector<std::uint64_t> joining(new_tables_.begin(), new_tables_.end());
  const result<void> prepared = co_await write_slices(early);
  if (!prepared) co_return prepared.error();
  const result<void> settled = co_await file_.flush();
  if (!settled) co_return settled.error();
  if (late.empty()) co_return result<void>{};
  for (const std::uint64_t table : joining) new_tables_.erase(table);
  const result<void> pointed = co_await write_slices(late);
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

bool table_writer::is_new(std::uint64_t slice) const noexcept {
  const auto behind = new_tables_.upper_bound(slice);
  return behind != new_tables_.begin() && slice - *std::prev(behind) < table_bytes_;
}

}  // namespace weir::qed
