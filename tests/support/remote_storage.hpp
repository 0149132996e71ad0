// A storage at the far end of a link that is cut now and then, in virtual time: requests wait for it to come back, are
// then sent again, and fail once they have waited for the limit. What the clients of servers do, without a server.
#pragma once

#include "engine/base/virtual_clock.hpp"
#include "engine/storage/storage.hpp"

#include <algorithm>
#include <cerrno>
#include <memory>
#include <span>
#include <utility>

namespace weir::test {

class remote_link {
 public:
  using duration = virtual_clock::duration;

  /// `clock` outlives the link.
  remote_link(virtual_clock& clock, duration limit) : clock_(clock), limit_(limit) {}

  duration limit() const noexcept { return limit_; }
  /// From now on for `time`; what is under way gets no answer.
  void cut(duration time) noexcept {
    ++cut_count_;
    up_at_ = std::max(up_at_, clock_.now() + time);
  }
  std::uint64_t cut_count() const noexcept { return cut_count_; }
  bool is_up() const noexcept { return clock_.now() >= up_at_; }
  void heal() noexcept { up_at_ = clock_.now(); }

  /// Waits until the link is up. False: the limit has passed.
  task<bool> wait() {
    const duration give_up_at = clock_.now() + limit_;
    while (clock_.now() < up_at_) {
      if (clock_.now() >= give_up_at) co_return false;
      const duration until = std::min(up_at_, give_up_at) - clock_.now();
      co_await clock_.sleep(until);
    }
    co_return true;
  }

 private:
  virtual_clock& clock_;
  duration limit_;
  duration up_at_{0};
  std::uint64_t cut_count_ = 0;
};

class remote_storage final : public storage {
 public:
  /// `link` outlives the storage.
  remote_storage(std::unique_ptr<storage> far, remote_link& link) : far_(std::move(far)), link_(link) {}

  const std::string& location() const noexcept override { return far_->location(); }
  const storage_capabilities& capabilities() const noexcept override { return far_->capabilities(); }
  std::uint64_t size() const noexcept override { return far_->size(); }
  std::optional<int> descriptor() const noexcept override { return std::nullopt; }
  void note_descriptor_write(byte_range) noexcept override {}
  std::optional<identity_type> identity() const noexcept override { return far_->identity(); }

 private:
  /// Until one request has been answered with the link up throughout.
  template <class T, class Request>
  task<result<T>> send(Request request) {
    while (true) {
      const bool up = co_await link_.wait();
      if (!up) co_return errno_code(ETIMEDOUT);
      const std::uint64_t cuts = link_.cut_count();
      result<T> done = co_await request();
      if (cuts == link_.cut_count()) co_return done;
    }
  }

  task<result<void>> do_read(std::uint64_t offset, std::span<std::byte> buffer) override {
    const auto request = [this, offset, buffer] { return far_->read(offset, buffer); };
    co_return co_await send<void>(request);
  }
  task<result<void>> do_write(std::uint64_t offset, std::span<const std::byte> data) override {
    const auto request = [this, offset, data] { return far_->write(offset, data); };
    co_return co_await send<void>(request);
  }
  task<result<void>> do_flush() override {
    const auto request = [this] { return far_->flush(); };
    co_return co_await send<void>(request);
  }
  task<result<void>> do_zero(byte_range range, zero_mode mode) override {
    const auto request = [this, range, mode] { return far_->zero(range, mode); };
    co_return co_await send<void>(request);
  }
  task<result<void>> do_discard(byte_range range) override {
    const auto request = [this, range] { return far_->discard(range); };
    co_return co_await send<void>(request);
  }
  task<result<void>> do_truncate(std::uint64_t length) override {
    const auto request = [this, length] { return far_->truncate(length); };
    co_return co_await send<void>(request);
  }
  task<result<storage_run>> do_status(byte_range range) override {
    const auto request = [this, range] { return far_->status(range); };
    co_return co_await send<storage_run>(request);
  }
  task<result<void>> do_close() override { return far_->close(); }

  std::unique_ptr<storage> far_;
  remote_link& link_;
};

}  // namespace weir::test
