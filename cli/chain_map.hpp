// Which layer of a chain owns which range, as runs.
#pragma once

#include "engine/block/disk.hpp"

#include <boost/json/array.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace weir::cli {

/// A run as qemu-img map knows it.
struct map_run {
  std::uint64_t start = 0;
  std::uint64_t length = 0;
  std::size_t depth = 0;  ///< owning layer; the base's where nobody owns the range
  bool present = false;   ///< some layer owns it
  bool zero = false;      ///< reads as zero
  bool data = false;      ///< has bytes to read
  bool compressed = false;
  std::optional<std::uint64_t> offset;  ///< where the bytes lie in the layer's file
};

/// The run after which `next` lies may be `into`: then it is made longer. False if they differ.
bool extend_run(map_run& into, const map_run& next);

/// Every run of the disk, neighbours joined. Failures name the disk and offset.
task<outcome<std::vector<map_run>>> map_chain(const disk& of);

/// qemu-img map's JSON.
boost::json::array to_json(const std::vector<map_run>& runs);
/// qemu-img map's table; `files` names the layers' files, active first.
std::string to_table(const std::vector<map_run>& runs, const std::vector<std::string>& files);

}  // namespace weir::cli
