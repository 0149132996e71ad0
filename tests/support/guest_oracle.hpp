// What a guest may see of its disk, byte by byte, while operations overlap, fail, or the power goes.
//
// For each byte it keeps the values a read may return now, and those that may be found after a power loss. One
// value is the normal case; a failed write leaves the old and the new one, a discard the old one and zero, until a
// read has shown which it is. Operations that overlap in time must touch disjoint bytes.
#pragma once

#include "engine/base/range.hpp"

#include <gtest/gtest.h>

#include <bitset>
#include <cstddef>
#include <cstdint>
#include <list>
#include <span>
#include <vector>

namespace weir::test {

class guest_oracle {
  using values = std::bitset<256>;

  struct change {
    byte_range range;
    std::vector<std::byte> content;  // empty: zeros
  };

 public:
  explicit guest_oracle(std::uint64_t size = 0) { resize(size); }

  std::uint64_t size() const noexcept { return now_.size(); }

  /// An overlay of another size: what is new reads as zero. Everything counts as durable.
  void resize(std::uint64_t size) {
    now_.resize(size, single(std::byte{0}));
    durable_ = now_;
  }

  using ticket = std::list<change>::iterator;

  /// A change (zeros if `content` is empty) is on its way: its values may become durable from now on.
  ticket begin_change(byte_range range, std::vector<std::byte> content = {}) {
    running_.push_back({range, std::move(content)});
    note_possible(running_.back());
    return std::prev(running_.end());
  }
  enum class ending { done, failed, discarded };
  void end_change(ticket ended, ending how) {
    for (std::uint64_t index = 0; index < ended->range.length; ++index) {
      values& now = now_[ended->range.offset + index];
      const values next = single(content_of(*ended, index));
      now = how == ending::done ? next : now | next;
    }
    for (flush_under_way& flush : flushes_) flush.meanwhile.push_back(*ended);
    running_.erase(ended);
  }

  struct flush_under_way {
    std::vector<values> at_start;
    std::list<change> meanwhile;
  };
  using flush_ticket = std::list<flush_under_way>::iterator;

  flush_ticket begin_flush() {
    flushes_.push_back({now_, {}});
    return std::prev(flushes_.end());
  }
  void end_flush(flush_ticket ended, bool done) {
    if (done) {
      durable_ = ended->at_start;
      for (const change& each : ended->meanwhile) note_possible(each);
      for (const change& each : running_) note_possible(each);
    }
    flushes_.erase(ended);
  }

  /// A read returned these bytes: they must be possible, and stay.
  testing::AssertionResult saw(std::uint64_t offset, std::span<const std::byte> bytes) {
    const testing::AssertionResult possible = check(now_, offset, bytes);
    if (possible) {
      for (std::size_t index = 0; index < bytes.size(); ++index) now_[offset + index] = single(bytes[index]);
    }
    return possible;
  }

  /// After a power loss the whole disk reads like this.
  testing::AssertionResult may_survive(std::span<const std::byte> bytes) const {
    return check(durable_, 0, bytes);
  }

 private:
  static values single(std::byte value) {
    values set;
    set.set(std::to_integer<std::size_t>(value));
    return set;
  }
  static std::byte content_of(const change& from, std::uint64_t index) {
    return from.content.empty() ? std::byte{0} : from.content[index];
  }
  void note_possible(const change& from) {
    for (std::uint64_t index = 0; index < from.range.length; ++index) {
      durable_[from.range.offset + index].set(std::to_integer<std::size_t>(content_of(from, index)));
    }
  }
  static testing::AssertionResult check(const std::vector<values>& allowed, std::uint64_t offset,
                                        std::span<const std::byte> bytes) {
    for (std::size_t index = 0; index < bytes.size(); ++index) {
      const auto value = std::to_integer<std::size_t>(bytes[index]);
      if (allowed[offset + index].test(value)) continue;
      return testing::AssertionFailure()
             << "byte " << offset + index << " reads " << value << ", not one of the "
             << allowed[offset + index].count() << " values it may have, e.g. "
             << allowed[offset + index]._Find_first();
    }
    return testing::AssertionSuccess();
  }

  std::vector<values> now_;
  std::vector<values> durable_;
  std::list<change> running_;
  std::list<flush_under_way> flushes_;
};

}  // namespace weir::test
