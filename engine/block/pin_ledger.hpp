// Pins keep host ranges from being reused while I/O to them is in flight.
//
// A pin does not name a range. Each belongs to the generation in which it was taken; freeing a host range
// retires the current generation and notes its number with the range. The range may be reused once no pin of
// that generation or an older one is left, and (the image's own rule) the cleared pointer to it is durable.
// Taking and dropping a pin is O(1) and touches one counter.
#pragma once

#include <cassert>
#include <cstdint>
#include <deque>
#include <utility>

namespace weir {

class pin_ledger {
 public:
  using generation = std::uint64_t;

  /// Move-only; the ledger must outlive it.
  class pin {
   public:
    pin() = default;
    pin(pin&& other) noexcept : ledger_(std::exchange(other.ledger_, nullptr)), taken_in_(other.taken_in_) {}
    pin& operator=(pin&& other) noexcept {
      if (this != &other) {
        reset();
        ledger_ = std::exchange(other.ledger_, nullptr);
        taken_in_ = other.taken_in_;
      }
      return *this;
    }
    ~pin() { reset(); }

    void reset() noexcept {
      if (ledger_ != nullptr) std::exchange(ledger_, nullptr)->drop(taken_in_);
    }

   private:
    friend class pin_ledger;
    pin(pin_ledger& ledger, generation taken_in) : ledger_(&ledger), taken_in_(taken_in) {}
    pin_ledger* ledger_ = nullptr;
    generation taken_in_ = 0;
  };

  pin_ledger() : counts_(1, 0) {}
  ~pin_ledger() { assert(total_ == 0); }
  pin_ledger(const pin_ledger&) = delete;
  pin_ledger& operator=(const pin_ledger&) = delete;

  pin take() {
    ++counts_.back();
    ++total_;
    return {*this, oldest_ + counts_.size() - 1};
  }

  /// Ends the current generation and returns its number: every pin taken so far is of it or older.
  generation retire() {
    const generation retired = oldest_ + counts_.size() - 1;
    counts_.push_back(0);
    trim();
    return retired;
  }

  /// True when no pin of `retired` or an older generation is left.
  bool is_unpinned(generation retired) const noexcept { return oldest_ > retired; }

  std::uint64_t pin_count() const noexcept { return total_; }

 private:
  void drop(generation taken_in) noexcept {
    assert(taken_in >= oldest_ && counts_[taken_in - oldest_] > 0);
    --counts_[taken_in - oldest_];
    --total_;
    trim();
  }
  void trim() noexcept {
    while (counts_.size() > 1 && counts_.front() == 0) {
      counts_.pop_front();
      ++oldest_;
    }
  }

  std::deque<std::uint64_t> counts_;  // pins per generation, oldest first; the last is the current one
  generation oldest_ = 0;
  std::uint64_t total_ = 0;
};

}  // namespace weir
