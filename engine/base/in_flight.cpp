#include "engine/base/in_flight.hpp"

namespace weir {

in_flight_ranges::hold& in_flight_ranges::hold::operator=(hold&& other) noexcept {
  if (this != &other) {
    release();
    owner_ = std::exchange(other.owner_, nullptr);
    at_ = other.at_;
  }
  return *this;
}

void in_flight_ranges::hold::release() noexcept {
  if (owner_ != nullptr) std::exchange(owner_, nullptr)->release(at_);
}

bool in_flight_ranges::is_clear(entries::const_iterator candidate) const noexcept {
  for (auto at = entries_.begin(); at != candidate; ++at) {
    if (at->range.overlaps(candidate->range)) return false;
  }
  return true;
}

std::optional<in_flight_ranges::hold> in_flight_ranges::try_acquire(byte_range range) {
  const auto at = entries_.insert(entries_.end(), entry{range, true, {}});
  if (is_clear(at)) return hold(*this, at);
  entries_.erase(at);
  return std::nullopt;
}

task<in_flight_ranges::hold> in_flight_ranges::acquire(byte_range range) {
  const auto at = entries_.insert(entries_.end(), entry{range, false, {}});
  if (is_clear(at)) {
    at->granted = true;
    co_return hold(*this, at);
  }
  co_await suspend_until([at](resumption resume) { at->resume = std::move(resume); });
  co_return hold(*this, at);
}

void in_flight_ranges::release(entries::iterator held) noexcept {
  const byte_range range = held->range;
  auto at = entries_.erase(held);
  for (; at != entries_.end(); ++at) {
    if (at->granted || !at->range.overlaps(range) || !is_clear(at)) continue;
    at->granted = true;
    run_later(executor_, std::move(at->resume));
  }
}

}  // namespace weir
