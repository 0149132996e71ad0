#include "cli/content_compare.hpp"

#include "engine/base/buffer_pool.hpp"
#include "engine/base/task_group.hpp"

#include <algorithm>
#include <cstring>
#include <limits>
#include <span>
#include <string>
#include <utility>

namespace weir::cli {
namespace {

constexpr unsigned lane_count = 4;
constexpr std::uint64_t step_bytes = 2 * MiB;
constexpr std::uint64_t nowhere = std::numeric_limits<std::uint64_t>::max();

class comparison {
 public:
  comparison(disk& a, disk& b, compare_settings settings)
      : a_(a), b_(b), settings_(std::move(settings)), total_bytes_(std::max(a.size(), b.size())) {}

  task<outcome<std::optional<content_difference>>> run() {
    task_group lanes(a_.resources().context);
    for (unsigned lane = 0; lane < lane_count; ++lane) lanes.spawn(compare_steps());
    co_await lanes.join();
    // An error behind the first difference does not matter: everything before it was compared.
    if (first_.offset <= error_offset_ && first_.offset != nowhere) co_return std::optional(first_);
    if (error_offset_ != nowhere) co_return error_;
    co_return std::optional<content_difference>();
  }

 private:
  /// What is known of a run of one disk without reading it.
  struct known {
    std::uint64_t length = 0;
    bool zero = false;
    bool allocated = false;
  };

  task<void> compare_steps() {
    while (next_ < total_bytes_ && next_ < std::min(first_.offset, error_offset_)) {
      const byte_range step{next_, std::min(step_bytes, total_bytes_ - next_)};
      next_ = step.end();
      co_await compare_step(step);
      done_bytes_ += step.length;
      if (settings_.progress && !settings_.progress(done_bytes_, total_bytes_)) {
        fail(0, make_failure(errc::cancelled, a_.name(), "interrupted"));
      }
    }
  }

  task<void> compare_step(byte_range step) {
    buffer_lease lease;
    while (!step.empty()) {
      const known left = co_await ask(a_, step);
      const known right = co_await ask(b_, step);
      if (left.length == 0 || right.length == 0) co_return;
      const byte_range part{step.offset, std::min(left.length, right.length)};
      if (settings_.strict && left.allocated != right.allocated) return_difference({part.offset, true});
      if (!(left.zero && right.zero)) {
        if (lease.size() == 0) lease = co_await a_.resources().buffers.acquire(2 * step_bytes);
        co_await compare_bytes(part, lease.bytes());
      }
      step = range_between(part.end(), step.end());
    }
  }

  void return_difference(content_difference found) {
    if (found.offset < first_.offset) first_ = found;
  }

  void fail(std::uint64_t offset, failure why) {
    if (offset >= error_offset_) return;
    error_offset_ = offset;
    error_ = std::move(why);
  }

  task<known> ask(disk& of, byte_range range) {
    if (range.offset >= of.size()) co_return known{.length = range.length, .zero = true, .allocated = false};
    range.length = std::min(range.length, of.size() - range.offset);
    const auto runs = co_await of.status(range, 1);
    if (runs.has_error()) {
      fail(range.offset, make_failure(runs.error(), of.name() + ": offset " + std::to_string(range.offset)));
      co_return known{};
    }
    const status_run& run = runs->front();
    co_return known{.length = run.length, .zero = run.zero, .allocated = run.depth != 0};
  }

  task<bool> read(disk& of, byte_range range, std::span<std::byte> into) {
    const std::uint64_t inside =
        range.offset < of.size() ? std::min(range.length, of.size() - range.offset) : 0;
    std::ranges::fill(into.subspan(inside), std::byte{0});
    if (inside == 0) co_return true;
    const result<void> done = co_await of.read(range.offset, into.first(inside));
    if (done.has_error()) {
      fail(range.offset, make_failure(done.error(), of.name() + ": offset " + std::to_string(range.offset)));
    }
    co_return done.has_value();
  }

  task<void> compare_bytes(byte_range part, std::span<std::byte> buffer) {
    const std::span<std::byte> left = buffer.first(part.length);
    const std::span<std::byte> right = buffer.subspan(step_bytes, part.length);
    const bool have_left = co_await read(a_, part, left);
    const bool have_right = co_await read(b_, part, right);
    if (!have_left || !have_right || std::memcmp(left.data(), right.data(), left.size()) == 0) co_return;
    const auto at = std::ranges::mismatch(left, right).in1 - left.begin();
    return_difference({part.offset + static_cast<std::uint64_t>(at), false});
  }

  disk& a_;
  disk& b_;
  compare_settings settings_;
  std::uint64_t total_bytes_;
  std::uint64_t next_ = 0;
  std::uint64_t done_bytes_ = 0;
  content_difference first_{nowhere, false};
  std::uint64_t error_offset_ = nowhere;
  failure error_;
};

}  // namespace

task<outcome<std::optional<content_difference>>> compare_disks(disk& a, disk& b, compare_settings settings) {
  comparison work(a, b, std::move(settings));
  co_return co_await work.run();
}

}  // namespace weir::cli
