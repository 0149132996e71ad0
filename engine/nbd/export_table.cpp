#include "engine/nbd/export_table.hpp"

#include "engine/nbd/meta_context.hpp"
#include "engine/nbd/protocol.hpp"

#include <algorithm>
#include <cassert>
#include <cerrno>

namespace weir::nbd {
namespace {

export_facts facts_of(const export_entry& entry) {
  const disk& target = *entry.target;
  const std::uint64_t grain = target.chain().active().image->grain();
  return {.name = entry.name,
          .description = entry.description,
          .size = target.size(),
          .read_only = entry.read_only || target.read_only(),
          .fast_zero = target.has_fast_zero(),
          .preferred_block = static_cast<std::uint32_t>(std::clamp(grain, 4 * KiB, 64 * KiB)),
          .bitmaps = entry.bitmaps};
}

bool is_sendable(std::string_view text, std::size_t longest = longest_string) noexcept {
  return text.size() <= longest && text.find('\0') == std::string_view::npos;
}

bool are_sendable(const std::vector<std::string>& bitmaps) noexcept {
  return bitmaps.size() <= most_bitmaps && std::ranges::all_of(bitmaps, [](const std::string& name) {
           return is_sendable(name, longest_bitmap_name);
         });
}

}  // namespace

outcome<void> export_table::add(export_entry entry) {
  assert(entry.target != nullptr);
  if (!is_sendable(entry.name) || !is_sendable(entry.description)) {
    return make_failure(errno_code(EINVAL), "export of disk " + entry.target->name(),
                        "name or description is longer than 4096 bytes or holds a NUL");
  }
  if (!are_sendable(entry.bitmaps)) {
    return make_failure(errno_code(EINVAL), "export '" + entry.name + "'",
                        "more than 30 bitmaps, or the name of one is longer than 1023 bytes");
  }
  if (entries_.contains(entry.name)) {
    return make_failure(errno_code(EEXIST), "export '" + entry.name + "'", "the name is in use");
  }
  std::string name = entry.name;
  entries_.emplace(std::move(name), std::make_shared<const export_entry>(std::move(entry)));
  return {};
}

std::shared_ptr<const export_entry> export_table::remove(std::string_view name) {
  const auto found = entries_.find(name);
  if (found == entries_.end()) return nullptr;
  std::shared_ptr<const export_entry> entry = found->second;
  entries_.erase(found);
  return entry;
}

std::shared_ptr<const export_entry> export_table::at(std::string_view name) const {
  const auto found = entries_.find(name);
  return found == entries_.end() ? nullptr : found->second;
}

std::optional<export_facts> export_table::do_find(std::string_view name) const {
  const std::shared_ptr<const export_entry> entry = at(name);
  if (!entry) return std::nullopt;
  return facts_of(*entry);
}

std::vector<export_facts> export_table::do_list() const {
  std::vector<export_facts> all;
  all.reserve(entries_.size());
  for (const auto& [name, entry] : entries_) all.push_back(facts_of(*entry));
  return all;
}

}  // namespace weir::nbd
