// How long to wait so that a copy keeps to its speed. Pure: the caller tells the time.
#pragma once

#include <chrono>
#include <cstdint>

namespace weir {

class rate_limit {
 public:
  using clock = std::chrono::steady_clock;

  /// 0 = no limit. Takes effect at once: what was charged before does not delay further.
  void set_speed(std::uint64_t bytes_per_s, clock::time_point now) noexcept {
    bytes_per_s_ = bytes_per_s;
    free_at_ = now;
  }
  std::uint64_t bytes_per_s() const noexcept { return bytes_per_s_; }

  /// Books `bytes` that are about to be copied.
  void charge(std::uint64_t bytes, clock::time_point now) noexcept {
    if (bytes_per_s_ == 0) return;
    const auto cost =
        std::chrono::duration<double>(static_cast<double>(bytes) / static_cast<double>(bytes_per_s_));
    if (free_at_ < now) free_at_ = now;
    free_at_ += std::chrono::duration_cast<clock::duration>(cost);
  }

  /// Time until the next copy may start; zero if it may now.
  clock::duration delay(clock::time_point now) const noexcept {
    return bytes_per_s_ == 0 || free_at_ <= now ? clock::duration::zero() : free_at_ - now;
  }

 private:
  std::uint64_t bytes_per_s_ = 0;
  clock::time_point free_at_{};
};

}  // namespace weir
