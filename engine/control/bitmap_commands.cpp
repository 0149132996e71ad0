// block-dirty-bitmap-*: the persistent bitmaps of a disk's active image.
#include "engine/block/bitmap_store.hpp"
#include "engine/control/arguments.hpp"
#include "engine/control/command_table.hpp"

#include <boost/json/array.hpp>

#include <algorithm>
#include <utility>
#include <vector>

namespace weir {
namespace {

namespace json = boost::json;

/// QEMU's default: the cluster size, but 4 KiB at least and 64 KiB at most.
constexpr std::uint64_t smallest_default_granularity = 4 * KiB;
constexpr std::uint64_t largest_default_granularity = 64 * KiB;

qmp_reply reply_of(const outcome<void>& done) {
  if (done.has_error()) return generic_error(done.error());
  return json::value(json::object{});
}

/// A disk and the bitmaps that its active image keeps.
struct kept_bitmaps {
  disk* owner = nullptr;
  bitmap_store* store = nullptr;
};

qmp_result<kept_bitmaps> bitmaps_of(engine_control& engine, const std::string& node) {
  disk* const owner = engine.find_disk(node);
  if (owner == nullptr) {
    return generic_error("Cannot find device='" + node + "' nor node-name='" + node + "'");
  }
  bitmap_store* const store = owner->chain().active().image->bitmaps();
  if (store == nullptr) return generic_error("The active image of '" + node + "' keeps no dirty bitmaps");
  return kept_bitmaps{owner, store};
}

struct named_bitmap {
  std::string node;
  std::string name;
};

qmp_result<named_bitmap> decode_named(const json::object& arguments) {
  argument_reader reader(arguments);
  named_bitmap wanted{reader.string("node"), reader.string("name")};
  if (auto checked = reader.finish(); checked.has_error()) return checked.error();
  return wanted;
}

/// BlockDirtyBitmapOrStr: "NAME" of the target's node, or {"node": NODE, "name": NAME}.
qmp_result<named_bitmap> decode_source(const json::value& given, const std::string& node) {
  if (given.is_string()) return named_bitmap{node, std::string(given.get_string())};
  if (given.is_object()) return decode_named(given.get_object());
  return generic_error("Invalid parameter type for 'bitmaps', expected: string");
}

/// Bits of the wanted bitmap, as they are now.
task<qmp_result<dirty_bitmap>> bits_of(engine_control& engine, named_bitmap wanted) {
  const auto kept = bitmaps_of(engine, wanted.node);
  if (kept.has_error()) co_return kept.error();
  if (kept->store->find(wanted.name) == nullptr) {
    co_return generic_error("Dirty bitmap '" + wanted.name + "' not found");
  }
  const outcome<const dirty_bitmap*> bits = co_await kept->store->load(wanted.name);
  if (bits.has_error()) co_return generic_error(bits.error());
  co_return **bits;
}

task<qmp_reply> set_enabled(engine_control& engine, const json::object& arguments, bool enabled) {
  const auto wanted = decode_named(arguments);
  if (wanted.has_error()) co_return wanted.error();
  const auto kept = bitmaps_of(engine, wanted->node);
  if (kept.has_error()) co_return kept.error();
  const outcome<void> done = co_await kept->store->set_enabled(wanted->name, enabled);
  if (done) kept->owner->record_bitmaps();
  co_return reply_of(done);
}

}  // namespace

task<qmp_reply> run_block_dirty_bitmap_add(engine_control& engine, const json::object& arguments) {
  argument_reader reader(arguments);
  const std::string node = reader.string("node");
  const std::string name = reader.string("name");
  const auto granularity = reader.optional_integer("granularity");
  const bool persistent = reader.optional_boolean("persistent").value_or(false);
  const bool disabled = reader.optional_boolean("disabled").value_or(false);
  if (auto checked = reader.finish(); checked.has_error()) co_return checked.error();
  const auto kept = bitmaps_of(engine, node);
  if (kept.has_error()) co_return kept.error();
  if (granularity && (*granularity < 512 || (*granularity & (*granularity - 1)) != 0)) {
    co_return generic_error("Granularity must be power of 2 and at least 512");
  }
  const std::uint64_t usual =
      std::clamp(kept->owner->grain(), smallest_default_granularity, largest_default_granularity);
  const std::uint64_t wanted = granularity ? static_cast<std::uint64_t>(*granularity) : usual;
  const outcome<void> added = kept->store->add(name, wanted, !disabled, persistent);
  if (added) kept->owner->record_bitmaps();
  co_return reply_of(added);
}

task<qmp_reply> run_block_dirty_bitmap_remove(engine_control& engine, const json::object& arguments) {
  const auto wanted = decode_named(arguments);
  if (wanted.has_error()) co_return wanted.error();
  const auto kept = bitmaps_of(engine, wanted->node);
  if (kept.has_error()) co_return kept.error();
  co_return reply_of(kept->store->remove(wanted->name));
}

task<qmp_reply> run_block_dirty_bitmap_clear(engine_control& engine, const json::object& arguments) {
  const auto wanted = decode_named(arguments);
  if (wanted.has_error()) co_return wanted.error();
  const auto kept = bitmaps_of(engine, wanted->node);
  if (kept.has_error()) co_return kept.error();
  const outcome<void> done = co_await kept->store->clear(wanted->name);
  co_return reply_of(done);
}

task<qmp_reply> run_block_dirty_bitmap_enable(engine_control& engine, const json::object& arguments) {
  return set_enabled(engine, arguments, true);
}

task<qmp_reply> run_block_dirty_bitmap_disable(engine_control& engine, const json::object& arguments) {
  return set_enabled(engine, arguments, false);
}

task<qmp_reply> run_block_dirty_bitmap_merge(engine_control& engine, const json::object& arguments) {
  argument_reader reader(arguments);
  const std::string node = reader.string("node");
  const std::string target = reader.string("target");
  const json::array* const given = reader.optional_array("bitmaps");
  if (auto checked = reader.finish(); checked.has_error()) co_return checked.error();
  if (given == nullptr) co_return generic_error("Parameter 'bitmaps' is missing");
  const auto kept = bitmaps_of(engine, node);
  if (kept.has_error()) co_return kept.error();
  // All of them are read before any is merged: it is done whole, or not at all.
  std::vector<dirty_bitmap> sources;
  for (const json::value& each : *given) {
    auto named = decode_source(each, node);
    if (named.has_error()) co_return named.error();
    auto bits = co_await bits_of(engine, std::move(*named));
    if (bits.has_error()) co_return bits.error();
    sources.push_back(std::move(*bits));
  }
  for (const dirty_bitmap& each : sources) {
    const outcome<void> merged = co_await kept->store->merge(target, each);
    if (merged.has_error()) co_return generic_error(merged.error());
  }
  co_return json::value(json::object{});
}

}  // namespace weir
