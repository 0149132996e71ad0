#include "engine/block/snapshot_store.hpp"

#include <utility>

namespace weir {

task<outcome<void>> snapshot_store::create(snapshot_info wanted) {
  return do_create(std::move(wanted));
}

task<outcome<void>> snapshot_store::apply(std::string id) {
  return do_apply(std::move(id));
}

task<outcome<void>> snapshot_store::remove(std::string id) {
  return do_remove(std::move(id));
}

outcome<snapshot_info> find_snapshot(std::span<const snapshot_info> among, std::string_view wanted,
                                     std::string_view location) {
  const snapshot_info* found = nullptr;
  for (const snapshot_info& each : among) {
    if (each.id != wanted && each.name != wanted) continue;
    if (found != nullptr) {
      return make_failure(
          errc::not_supported, location,
          "'" + std::string(wanted) + "' means several snapshots; give the ID or name that only one has");
    }
    found = &each;
  }
  if (found != nullptr) return *found;
  return make_failure(errc::not_supported, location, "there is no snapshot '" + std::string(wanted) + "'");
}

}  // namespace weir
