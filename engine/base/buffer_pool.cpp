#include "engine/base/buffer_pool.hpp"

#include "engine/base/async_event.hpp"

#include <bit>
#include <cassert>
#include <new>

namespace weir {
namespace {

std::size_t class_of(std::size_t length) noexcept {
  const std::size_t units = (length + buffer_pool::alignment - 1) / buffer_pool::alignment;
  return static_cast<std::size_t>(std::bit_width(units - 1));
}

std::size_t class_bytes(std::size_t index) noexcept {
  return buffer_pool::alignment << index;
}

}  // namespace

buffer_lease& buffer_lease::operator=(buffer_lease&& other) noexcept {
  if (this != &other) {
    reset();
    pool_ = std::exchange(other.pool_, nullptr);
    data_ = std::exchange(other.data_, nullptr);
    length_ = std::exchange(other.length_, 0);
  }
  return *this;
}

void buffer_lease::reset() noexcept {
  if (pool_ != nullptr) std::exchange(pool_, nullptr)->give_back(data_, length_);
  data_ = nullptr;
  length_ = 0;
}

buffer_pool::buffer_pool(executor context, std::size_t limit_bytes)
    : executor_(std::move(context)), limit_bytes_(limit_bytes) {}

buffer_pool::~buffer_pool() {
  assert(lent_bytes_ == 0);
  for (std::size_t index = 0; index < class_count; ++index) {
    for (std::byte* data : free_[index]) ::operator delete(data, std::align_val_t{alignment});
  }
}

bool buffer_pool::may_lend(std::size_t length) const noexcept {
  return lent_bytes_ == 0 || lent_bytes_ + class_bytes(class_of(length)) <= limit_bytes_;
}

buffer_lease buffer_pool::lend(std::size_t length) {
  const std::size_t index = class_of(length);
  std::byte* data = nullptr;
  if (free_[index].empty()) {
    data = static_cast<std::byte*>(::operator new(class_bytes(index), std::align_val_t{alignment}));
  } else {
    data = free_[index].back();
    free_[index].pop_back();
    kept_bytes_ -= class_bytes(index);
  }
  lent_bytes_ += class_bytes(index);
  return {*this, data, length};
}

std::optional<buffer_lease> buffer_pool::try_acquire(std::size_t length) {
  assert(length > 0 && length <= largest_lease);
  if (!waiters_.empty() || !may_lend(length)) return std::nullopt;
  return lend(length);
}

task<buffer_lease> buffer_pool::acquire(std::size_t length) {
  std::optional<buffer_lease> at_once = try_acquire(length);
  if (at_once) co_return std::move(*at_once);
  co_await suspend_until(
      [this, length](resumption resume) { waiters_.push_back({length, std::move(resume)}); });
  // wake() reserved the bytes for this waiter; hand the reservation over to the lease.
  lent_bytes_ -= class_bytes(class_of(length));
  co_return lend(length);
}

void buffer_pool::give_back(std::byte* data, std::size_t length) noexcept {
  const std::size_t index = class_of(length);
  lent_bytes_ -= class_bytes(index);
  if (kept_bytes_ + class_bytes(index) <= most_kept_bytes) {
    kept_bytes_ += class_bytes(index);
    free_[index].push_back(data);
  } else {
    ::operator delete(data, std::align_val_t{alignment});
  }
  wake();
}

void buffer_pool::wake() {
  while (!waiters_.empty() && may_lend(waiters_.front().length)) {
    waiter next = std::move(waiters_.front());
    waiters_.pop_front();
    lent_bytes_ += class_bytes(class_of(next.length));
    run_later(executor_, std::move(next.resume));
  }
}

}  // namespace weir
