#include "engine/block/pin_ledger.hpp"

#include <gtest/gtest.h>

namespace weir {
namespace {

TEST(pin_ledger, what_is_retired_is_free_once_older_pins_are_gone) {
  pin_ledger ledger;
  pin_ledger::pin before = ledger.take();
  const auto retired = ledger.retire();
  pin_ledger::pin after = ledger.take();
  EXPECT_FALSE(ledger.is_unpinned(retired));
  before.reset();
  EXPECT_TRUE(ledger.is_unpinned(retired));
  EXPECT_EQ(ledger.pin_count(), 1U);
}

TEST(pin_ledger, an_older_pin_holds_every_later_generation) {
  pin_ledger ledger;
  pin_ledger::pin oldest = ledger.take();
  const auto first = ledger.retire();
  const auto second = ledger.retire();
  EXPECT_FALSE(ledger.is_unpinned(first));
  EXPECT_FALSE(ledger.is_unpinned(second));
  oldest.reset();
  EXPECT_TRUE(ledger.is_unpinned(second));
}

TEST(pin_ledger, without_pins_all_is_free_at_once) {
  pin_ledger ledger;
  EXPECT_TRUE(ledger.is_unpinned(ledger.retire()));
}

TEST(pin_ledger, moving_a_pin_keeps_one_pin) {
  pin_ledger ledger;
  pin_ledger::pin first = ledger.take();
  pin_ledger::pin second = std::move(first);
  EXPECT_EQ(ledger.pin_count(), 1U);
  first = std::move(second);
  first.reset();
  EXPECT_EQ(ledger.pin_count(), 0U);
}

}  // namespace
}  // namespace weir
