#include "tests/support/owner_check.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

namespace weir::test {
namespace {

struct owned_run {
  std::uint64_t length = 0;
  std::size_t depth = 0;
  const layer* owner = nullptr;
  extent_kind kind = extent_kind::zero;
  std::uint64_t host_offset = 0;
  std::uint64_t unit_offset = 0;

  friend bool operator==(const owned_run&, const owned_run&) = default;
  friend void PrintTo(const owned_run& run, std::ostream* out) {
    *out << "{length " << run.length << " depth " << run.depth << " kind " << static_cast<int>(run.kind)
         << " host " << run.host_offset << " unit " << run.unit_offset << "}";
  }
};

void add(std::vector<owned_run>& runs, owned_run next) {
  if (!runs.empty()) {
    owned_run& last = runs.back();
    const bool goes_on = next.kind != extent_kind::data || last.host_offset + last.length == next.host_offset;
    const bool alike = last.depth == next.depth && last.owner == next.owner && last.kind == next.kind &&
                       last.unit_offset == next.unit_offset;
    if (goes_on && alike) {
      last.length += next.length;
      return;
    }
  }
  runs.push_back(next);
}

owned_run run_of(const extent& found, std::size_t depth, const layer* owner) {
  owned_run made{found.length, depth, owner, found.kind, 0, 0};
  if (found.kind == extent_kind::data) made.host_offset = found.host_offset;
  if (found.kind == extent_kind::encoded) made.unit_offset = found.unit.host.offset;
  return made;
}

/// The definition: the first layer that does not say "unallocated" owns the range; past a layer's end it is zero.
task<owned_run> walk(const chain& layers, byte_range range, depth_range among, map_effort effort) {
  const std::size_t last = std::min(among.last, layers.depth());
  for (std::size_t depth = among.first; depth < last; ++depth) {
    image& asked = *layers.at(depth)->image;
    const layer* const owner = layers.at(depth).get();
    if (range.offset >= asked.virtual_size()) {
      co_return owned_run{range.length, depth, owner, extent_kind::zero, 0, 0};
    }
    const byte_range part = intersection(range, {0, asked.virtual_size()});
    const result<mapping> found = co_await asked.map(part, effort);
    EXPECT_TRUE(found) << found.error().message();
    if (!found) co_return owned_run{range.length, depth, owner, extent_kind::zero, 0, 0};
    if (found->extent.kind != extent_kind::unallocated) co_return run_of(found->extent, depth, owner);
    range.length = found->extent.length;
  }
  const bool to_the_base = last == layers.depth();
  co_return owned_run{
      range.length, last, nullptr, to_the_base ? extent_kind::zero : extent_kind::unallocated, 0, 0};
}

}  // namespace

task<void> expect_same_owners(const chain& layers, byte_range range, depth_range among, map_effort effort) {
  std::vector<owned_run> expected;
  for (byte_range rest = range; !rest.empty();) {
    const owned_run next = co_await walk(layers, rest, among, effort);
    add(expected, next);
    rest = range_between(rest.offset + next.length, rest.end());
  }
  std::vector<owned_run> found;
  for (byte_range rest = range; !rest.empty();) {
    const result<located_extent> next = co_await layers.lookup(rest, among, effort);
    EXPECT_TRUE(next) << next.error().message();
    if (!next) co_return;
    EXPECT_TRUE(next->length() > 0 && next->length() <= rest.length);
    add(found, run_of(next->found.extent, next->depth, next->owner.get()));
    rest = range_between(rest.offset + next->length(), rest.end());
  }
  EXPECT_EQ(found, expected) << "range " << range.offset << "+" << range.length << " layers " << among.first
                             << ".." << among.last << " effort " << static_cast<int>(effort);
}

}  // namespace weir::test
