#include "engine/copy/unit_packer.hpp"

#include <memory>

namespace weir {

result<std::vector<packed_unit>> pack_units(const unit_encoding& form, std::span<const std::byte> plain,
                                            std::span<const byte_range> non_zero, std::span<std::byte> room) {
  const std::unique_ptr<unit_encoder> encoder = form.make_encoder();
  std::vector<packed_unit> units;
  for (const byte_range run : non_zero) {
    for (std::uint64_t at = run.offset; at < run.end(); at += form.unit_bytes) {
      const byte_range where{at, form.unit_bytes};
      const auto unit = plain.subspan(where.offset, where.length);
      // A unit that takes as many bytes as it has is no gain.
      const result<std::size_t> length = encoder->encode(unit, room.first(form.unit_bytes - 1));
      if (!length) return length.error();
      units.push_back({where, room.first(*length)});
      room = room.subspan(*length);
    }
  }
  return units;
}

}  // namespace weir
