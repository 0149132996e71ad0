#include "formats/qcow2/entry_table.hpp"

#include "engine/base/endian.hpp"

#include <algorithm>
#include <span>

namespace weir::qcow2 {
namespace {

constexpr std::uint64_t sector_entries = sector_bytes / entry_bytes;
constexpr std::size_t load_step_bytes = 1 * MiB;

}  // namespace

task<result<void>> entry_table::load(storage& from, std::uint64_t count) {
  entries_.assign(static_cast<std::size_t>(count), 0);
  std::vector<std::byte> buffer(
      std::min<std::size_t>(static_cast<std::size_t>(count * entry_bytes), load_step_bytes));
  for (std::uint64_t done = 0; done < count;) {
    const std::uint64_t step = std::min<std::uint64_t>(count - done, buffer.size() / entry_bytes);
    const auto part = std::span(buffer).first(static_cast<std::size_t>(step * entry_bytes));
    const result<void> got = co_await from.read(offset_ + done * entry_bytes, part);
    if (!got) co_return got.error();
    for (std::uint64_t index = 0; index < step; ++index) {
      entries_[done + index] = load_big<std::uint64_t>(part.data() + index * entry_bytes);
    }
    done += step;
  }
  co_return result<void>{};
}

void entry_table::set(std::uint64_t index, std::uint64_t value) {
  entries_[index] = value;
  dirty_sectors_.insert(index / sector_entries);
}

void entry_table::move(std::uint64_t offset, std::uint64_t count) {
  offset_ = offset;
  entries_.resize(static_cast<std::size_t>(count), 0);
  for (std::uint64_t sector = 0; sector * sector_entries < count; ++sector) dirty_sectors_.insert(sector);
}

std::vector<frozen_bytes> entry_table::freeze() {
  frozen_sectors_.swap(dirty_sectors_);
  std::vector<frozen_bytes> taken;
  for (const std::uint64_t sector : frozen_sectors_) {
    const std::uint64_t first = sector * sector_entries;
    const std::uint64_t last = std::min<std::uint64_t>(first + sector_entries, entries_.size());
    const std::uint64_t at = offset_ + first * entry_bytes;
    const bool adjacent = !taken.empty() && taken.back().offset + taken.back().bytes->size() == at;
    if (!adjacent) taken.push_back({at, std::make_shared<std::vector<std::byte>>()});
    std::vector<std::byte>& bytes = *taken.back().bytes;
    const std::size_t before = bytes.size();
    bytes.resize(before + static_cast<std::size_t>((last - first) * entry_bytes));
    for (std::uint64_t index = first; index < last; ++index) {
      store_big(bytes.data() + before + (index - first) * entry_bytes, entries_[index]);
    }
  }
  return taken;
}

void entry_table::settle(bool written) {
  if (!written) dirty_sectors_.merge(frozen_sectors_);
  frozen_sectors_.clear();
}

}  // namespace weir::qcow2
