// Writing to the active layer where it has no extent that may be written in place.
//
// allocate → fill head and tail → write → publish; an allocation whose write failed is released, so that
// nothing half-written is ever pointed to. The caller holds the whole grains in flight.
#pragma once

#include "engine/base/buffer_pool.hpp"
#include "engine/base/error.hpp"
#include "engine/base/range.hpp"
#include "engine/base/task.hpp"
#include "engine/block/chain.hpp"
#include "engine/block/resources.hpp"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace weir {

/// Guest content for whole grains (or up to the end of the disk).
struct placed_run {
  byte_range guest;
  std::span<const std::byte> data;
};

/// What a guest write outside in-place extents needs besides the disk's resources.
struct write_context {
  engine_resources resources;
  const chain& layers;
  /// Buffers taken while ranges are held in flight. Whoever has one waits neither for a range nor for another
  /// buffer, so that waiting for one always ends; payload buffers of requests come from resources.buffers.
  buffer_pool& fill_buffers;
};

/// The place of all of `range` in one piece that may be written as it is, pinned; nothing where there is none.
/// Errors: those of image::map.
task<result<std::optional<mapping>>> find_in_place(image& into, byte_range range);

/// Second half of a copy: finds or allocates the place of every run in the active layer, writes them on a
/// worker where the storage has a descriptor, and publishes the new ones. Precondition: each run is whole grains
/// and held in flight. On an error nothing unpublished is kept; runs published before stay.
task<result<void>> place_runs(write_context context, std::vector<placed_run> runs);

/// One encoded unit and the guest bytes it stands for.
struct encoded_piece {
  byte_range guest;  ///< as image::allocate_encoded() wants it
  std::span<const std::byte> bytes;
};

/// The same for encoded units, in order, so that they lie packed one behind the other; all of them go out in as few
/// writes as that allows. Returns how many were placed: fewer than given where the next one is allocated already and
/// cannot be written encoded.
task<result<std::size_t>> place_encoded(engine_resources resources, image& into,
                                        std::span<const encoded_piece> units);

/// Writes a prefix of `data` at `offset` into newly allocated grains, which keep their content around it.
/// Returns the number of bytes written. Precondition: the grains `data` touches are held in flight.
task<result<std::uint64_t>> write_to_new_grains(write_context context, std::uint64_t offset,
                                                std::span<const std::byte> data);

enum class grain_content : std::uint8_t {
  zero,    ///< all of it reads as zero: nothing was allocated
  copied,  ///< allocated, written and published
};

/// Brings the grain-aligned `range`, larger than a copy buffer, into the active layer in pieces of one lease.
/// For formats with huge clusters.
task<result<grain_content>> copy_huge_grain(write_context context, byte_range range);

}  // namespace weir
