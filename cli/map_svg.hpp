// A picture of who owns what: one row for each layer of a chain, from the active one down.
#pragma once

#include "cli/chain_map.hpp"

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace weir::cli {

/// A disk to be drawn.
struct mapped_disk {
  std::string name;
  std::uint64_t size = 0;          ///< bytes
  std::vector<std::string> files;  ///< the layers' files, active first
  std::vector<map_run> runs;
};

/// An SVG document. Its length depends on the number of layers, not of runs: what falls into one pixel is drawn
/// as what most of it is.
std::string to_svg(std::span<const mapped_disk> disks);

}  // namespace weir::cli
