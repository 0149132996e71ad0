#include "engine/nbd/meta_context.hpp"

#include "engine/nbd/protocol.hpp"

namespace weir::nbd {
namespace {

std::uint32_t flags_of(meta_context context, const status_run& run) noexcept {
  if (context == meta_context::allocation_depth) return run.depth;
  // Known zero is reported as a hole as well, allocated or not, as qemu-nbd does: clients then skip it.
  return run.zero ? state_hole | state_zero : 0;
}

}  // namespace

std::string_view name_of(meta_context context) noexcept {
  switch (context) {
    case meta_context::base_allocation:
      return "base:allocation";
    case meta_context::allocation_depth:
      return "qemu:allocation-depth";
  }
  return {};
}

void select_meta_contexts(std::string_view query, bool wildcards, meta_context_set& into) {
  for (const meta_context context : every_meta_context) {
    const std::string_view name = name_of(context);
    const std::string_view space = name.substr(0, name.find(':') + 1);
    if (query == name || (wildcards && query == space)) into.insert(context);
  }
}

std::vector<status_extent> extents_of(meta_context context, std::span<const status_run> runs,
                                      std::size_t most) {
  std::vector<status_extent> extents;
  for (const status_run& run : runs) {
    const std::uint32_t flags = flags_of(context, run);
    const auto length = static_cast<std::uint32_t>(run.length);
    if (!extents.empty() && extents.back().flags == flags) {
      extents.back().length += length;
    } else if (extents.size() < most) {
      extents.push_back({length, flags});
    } else {
      break;
    }
  }
  return extents;
}

}  // namespace weir::nbd
