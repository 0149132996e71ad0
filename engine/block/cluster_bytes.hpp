// The cluster of an image whose grains may be parts of clusters.
#pragma once

#include "engine/block/image.hpp"

#include <cstdint>

namespace weir {

/// Bytes of a cluster: what the format takes and gives back as one. Its grain, unless it tells of clusters.
inline std::uint64_t cluster_bytes(const image& of) {
  for (const image_fact& fact : of.facts()) {
    if (fact.key == "cluster-size") return std::get<std::uint64_t>(fact.value);
  }
  return of.grain();
}

}  // namespace weir
