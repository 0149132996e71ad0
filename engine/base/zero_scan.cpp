#include "engine/base/zero_scan.hpp"

#include <isa-l/mem_routines.h>

namespace weir {

bool is_all_zero(std::span<const std::byte> buffer) noexcept {
  if (buffer.empty()) return true;
  // Data usually differs at once: a look at both ends spares the call.
  if (buffer.front() != std::byte{0} || buffer.back() != std::byte{0}) return false;
  // isal_zero_detect takes a mutable pointer but only reads.
  return isal_zero_detect(const_cast<std::byte*>(buffer.data()), buffer.size()) == 0;
}

std::vector<byte_range> non_zero_runs(std::span<const std::byte> buffer, std::size_t granularity) {
  std::vector<byte_range> runs;
  for (std::size_t at = 0; at < buffer.size(); at += granularity) {
    const auto piece = buffer.subspan(at, std::min(granularity, buffer.size() - at));
    if (is_all_zero(piece)) continue;
    if (!runs.empty() && runs.back().end() == at) {
      runs.back().length += piece.size();
    } else {
      runs.push_back({at, piece.size()});
    }
  }
  return runs;
}

}  // namespace weir
