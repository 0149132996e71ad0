#include "formats/qcow2/slice_cache.hpp"

#include <algorithm>
#include <cassert>

namespace weir::qcow2 {
namespace {

constexpr std::size_t fewest_slices = 16;

}  // namespace

slice_cache::slice_cache(executor context, storage& from, std::uint64_t slice_size, std::size_t limit_bytes)
    : storage_(from),
      slice_size_(slice_size),
      limit_bytes_(std::max<std::size_t>(limit_bytes, fewest_slices * static_cast<std::size_t>(slice_size))),
      loaded_(std::move(context)) {}

const std::byte* slice_cache::find(std::uint64_t offset) noexcept {
  const auto found = by_offset_.find(offset);
  if (found == by_offset_.end()) return nullptr;
  if (found->second != recent_first_.begin()) {
    recent_first_.splice(recent_first_.begin(), recent_first_, found->second);
  }
  return found->second->bytes->data();
}

std::byte* slice_cache::find_for_change(std::uint64_t offset) {
  if (find(offset) == nullptr) return nullptr;
  slice& wanted = recent_first_.front();
  if (wanted.frozen && !wanted.dirty) wanted.bytes = std::make_shared<std::vector<std::byte>>(*wanted.bytes);
  if (!wanted.dirty) dirty_.insert(offset);
  wanted.dirty = true;
  return wanted.bytes->data();
}

task<result<void>> slice_cache::load(std::uint64_t offset) {
  while (loading_.contains(offset)) co_await loaded_.wait();
  if (find(offset) != nullptr) co_return result<void>{};
  loading_.insert(offset);
  auto bytes = std::make_shared<std::vector<std::byte>>(static_cast<std::size_t>(slice_size_));
  const result<void> got = co_await storage_.read(offset, *bytes);
  loading_.erase(offset);
  if (loaded_.has_waiters()) loaded_.notify_all();
  if (!got) co_return got.error();
  // A cluster that became metadata during the read was put here by insert_zero: that is newer.
  if (find(offset) == nullptr) insert(offset, std::move(bytes));
  co_return result<void>{};
}

void slice_cache::insert_zero(std::uint64_t offset) {
  assert(!by_offset_.contains(offset));
  insert(offset, std::make_shared<std::vector<std::byte>>(static_cast<std::size_t>(slice_size_)));
}

slice_cache::slice& slice_cache::insert(std::uint64_t offset, std::shared_ptr<std::vector<std::byte>> bytes) {
  recent_first_.push_front({offset, std::move(bytes)});
  by_offset_.emplace(offset, recent_first_.begin());
  evict();
  return recent_first_.front();
}

void slice_cache::evict() {
  auto candidate = recent_first_.end();
  // The newest slice stays whatever happens: its loader is about to use it.
  while (recent_first_.size() * slice_size_ > limit_bytes_ && candidate != std::next(recent_first_.begin())) {
    --candidate;
    if (candidate->dirty || candidate->frozen) continue;
    by_offset_.erase(candidate->offset);
    candidate = recent_first_.erase(candidate);
  }
}

void slice_cache::forget(byte_range range) {
  // A range may be as long as a file says it is: then what is cached is fewer.
  if (range.length / slice_size_ > by_offset_.size()) {
    for (auto each = recent_first_.begin(); each != recent_first_.end();) {
      const auto next = std::next(each);
      if (range.contains(each->offset)) forget(each);
      each = next;
    }
    return;
  }
  for (std::uint64_t offset = range.offset; offset < range.end(); offset += slice_size_) {
    const auto found = by_offset_.find(offset);
    if (found != by_offset_.end()) forget(found->second);
  }
}

void slice_cache::forget(slices::iterator which) {
  assert(!which->dirty && !which->frozen);
  by_offset_.erase(which->offset);
  recent_first_.erase(which);
}

std::vector<frozen_bytes> slice_cache::freeze() {
  assert(frozen_.empty());
  frozen_.assign(dirty_.begin(), dirty_.end());
  dirty_.clear();
  std::ranges::sort(frozen_);
  std::vector<frozen_bytes> taken;
  taken.reserve(frozen_.size());
  for (const std::uint64_t offset : frozen_) {
    slice& each = *by_offset_.at(offset);
    each.dirty = false;
    each.frozen = true;
    taken.push_back({offset, each.bytes});
  }
  return taken;
}

void slice_cache::settle(bool written) {
  for (const std::uint64_t offset : frozen_) {
    slice& each = *by_offset_.at(offset);
    each.frozen = false;
    if (written || each.dirty) continue;
    each.dirty = true;
    dirty_.insert(offset);
  }
  frozen_.clear();
  evict();
}

}  // namespace weir::qcow2
