#include "engine/storage/simulated_disk.hpp"

#include <algorithm>
#include <cassert>
#include <utility>

namespace weir {
namespace {

void apply(sparse_bytes& content, const disk_change& what) {
  switch (what.kind) {
    case disk_operation::write:
      content.write(what.range.offset, what.data);
      break;
    case disk_operation::zero:
      content.zero(what.range);
      if (what.keep_allocated) content.allocate(what.range);
      break;
    case disk_operation::discard:
      content.discard(what.range);
      break;
    case disk_operation::truncate:
      content.truncate(what.range.offset);
      break;
    case disk_operation::read:
    case disk_operation::flush:
      assert(false);
  }
}

disk_change part_of(const disk_change& whole, byte_range part) {
  disk_change piece{whole.kind, part, {}, whole.keep_allocated};
  if (whole.kind == disk_operation::write) {
    const auto first = whole.data.begin() + static_cast<std::ptrdiff_t>(part.offset - whole.range.offset);
    piece.data.assign(first, first + static_cast<std::ptrdiff_t>(part.length));
  }
  return piece;
}

std::uint64_t below(std::mt19937_64& random, std::uint64_t bound) {
  return std::uniform_int_distribution<std::uint64_t>(0, bound - 1)(random);
}

// Applies some of the change's sectors: runs of them are kept and lost in turn.
void apply_torn(sparse_bytes& content, const disk_change& what, std::mt19937_64& random) {
  if (what.kind == disk_operation::truncate) return;
  constexpr std::uint64_t sector = simulated_disk::sector_bytes;
  const std::uint64_t sector_count = align_outward(what.range, sector).length / sector;
  bool keep = below(random, 2) == 0;
  for (std::uint64_t at = align_down(what.range.offset, sector); at < what.range.end(); keep = !keep) {
    // Some tears are a single cut, some a comb.
    const std::uint64_t longest =
        below(random, 2) == 0 ? sector_count : std::min<std::uint64_t>(sector_count, 4);
    const std::uint64_t end = at + (1 + below(random, longest)) * sector;
    if (keep) apply(content, part_of(what, intersection(range_between(at, end), what.range)));
    at = end;
  }
}

void apply_after_power_loss(sparse_bytes& content, const disk_change& what, std::mt19937_64& random) {
  switch (below(random, 5)) {
    case 0:
    case 1:
      break;
    case 2:
    case 3:
      apply(content, what);
      break;
    default:
      apply_torn(content, what, random);
  }
}

}  // namespace

bool power_supply::spend() noexcept {
  if (on_ && left_ && (*left_)-- == 0) on_ = false;
  if (on_) ++operation_count_;
  return on_;
}

simulated_disk::simulated_disk(std::uint64_t size, power_supply* power)
    : power_(power), visible_(size, page_bytes), durable_(visible_) {}

void simulated_disk::load(std::uint64_t offset, std::span<const std::byte> data) {
  assert(log_.empty());
  visible_.write(offset, data);
  durable_ = visible_;
}

void simulated_disk::settle_all() {
  durable_ = visible_;
  log_.clear();
}

void simulated_disk::set_error_rate(std::uint32_t errors_per_million, std::uint64_t seed) {
  errors_per_million_ = errors_per_million;
  random_.seed(static_cast<std::minstd_rand::result_type>(seed));
}

int simulated_disk::drawn_error(disk_operation kind, byte_range where) {
  const bool ranged = kind != disk_operation::truncate && kind != disk_operation::flush;
  for (disk_fault& fault : faults_) {
    if (fault.count == 0 || fault.operation.value_or(kind) != kind) continue;
    if (ranged && !fault.where.overlaps(where)) continue;
    if (fault.skip_count > 0) {
      --fault.skip_count;
      continue;
    }
    --fault.count;
    return fault.error_number;
  }
  if (errors_per_million_ == 0) return 0;
  return std::uniform_int_distribution<std::uint32_t>(0, 999'999)(random_) < errors_per_million_ ? EIO : 0;
}

result<void> simulated_disk::read(std::uint64_t offset, std::span<std::byte> buffer) {
  if (!powered()) return errno_code(EIO);
  if (const int error = drawn_error(disk_operation::read, {offset, buffer.size()})) return errno_code(error);
  visible_.read(offset, buffer);
  return {};
}

result<std::uint64_t> simulated_disk::change(disk_change what, bool was_powered) {
  int error = power_ == nullptr || power_->spend() ? 0 : EIO;
  if (error != 0) {
    // On its way when the power went: it may survive, in part, but nobody reads it before the restart.
    if (was_powered) log_.push_back({std::move(what), ++ticket_count_, 0});
    return errno_code(error);
  }
  error = drawn_error(what.kind, what.range);
  std::uint64_t done = error == 0 ? what.range.length : 0;
  if (error == EIO && what.range.length > 0) {
    // Devices write whole sectors or nothing.
    const std::uint64_t end =
        what.range.offset + std::uniform_int_distribution<std::uint64_t>(0, what.range.length)(random_);
    done = end == what.range.end()
               ? what.range.length
               : std::max(align_down(end, sector_bytes), what.range.offset) - what.range.offset;
  }
  const bool allocates = what.kind == disk_operation::write || what.keep_allocated;
  if (error == 0 && allocates) {
    const std::uint64_t used = visible_.allocated_bytes();
    done = visible_.writable_prefix(what.range, capacity_bytes_ > used ? capacity_bytes_ - used : 0);
    if (done < what.range.length) error = ENOSPC;
  }
  if (error != 0) {
    if (done == 0) return errno_code(error);
    what = part_of(what, {what.range.offset, done});
  }
  apply(visible_, what);
  // What a failed change did is settled by the next flush too, or it would come back over a later one.
  log_.push_back({std::move(what), ++ticket_count_, error != 0 ? ++answer_count_ : 0});
  if (error != 0) return errno_code(error);
  return ticket_count_;
}

void simulated_disk::answered(std::uint64_t ticket) {
  const auto entry = std::lower_bound(
      log_.begin(), log_.end(), ticket,
      [](const logged_change& logged, std::uint64_t wanted) { return logged.ticket < wanted; });
  if (entry != log_.end() && entry->ticket == ticket) entry->answer = ++answer_count_;
}

result<void> simulated_disk::flush(std::uint64_t issued) {
  if (power_ != nullptr && !power_->spend()) return errno_code(EIO);
  if (const int error = drawn_error(disk_operation::flush, {})) return errno_code(error);
  const auto covered = [issued](const logged_change& logged) {
    return logged.answer != 0 && logged.answer <= issued;
  };
  for (const logged_change& logged : log_) {
    if (covered(logged)) apply(durable_, logged.what);
  }
  std::erase_if(log_, covered);
  return {};
}

simulated_disk simulated_disk::survivor(std::uint64_t seed, power_supply* power) const {
  simulated_disk after(0, power);
  after.durable_ = durable_;
  if (seed == 1) {
    for (const logged_change& logged : log_) apply(after.durable_, logged.what);
  } else if (seed > 1) {
    std::mt19937_64 random(seed);
    std::vector<const disk_change*> order;
    order.reserve(log_.size());
    for (const logged_change& logged : log_) order.push_back(&logged.what);
    for (std::size_t left = order.size(); left > 1; --left) {
      std::swap(order[left - 1], order[below(random, left)]);
    }
    for (const disk_change* what : order) apply_after_power_loss(after.durable_, *what, random);
  }
  after.visible_ = after.durable_;
  return after;
}

simulated_disk simulated_disk::after_power_loss(std::uint64_t seed) const {
  return survivor(seed, nullptr);
}

simulated_disk simulated_disk::after_power_loss(std::uint64_t seed, power_supply& power) const {
  return survivor(seed, &power);
}

}  // namespace weir
