// What the handshake knows of the exports: facts by name.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace weir::nbd {

struct export_facts {
  std::string name;
  std::string description;
  std::uint64_t size = 0;
  bool read_only = false;
  bool fast_zero = false;
  std::uint32_t preferred_block = 4096;   ///< power of two, 4 KiB … 64 KiB
  std::vector<std::string> bitmaps = {};  ///< shown as contexts qemu:dirty-bitmap:NAME, see meta_context.hpp
};

class export_catalog {
 public:
  export_catalog() = default;
  export_catalog(const export_catalog&) = delete;
  export_catalog& operator=(const export_catalog&) = delete;
  virtual ~export_catalog() = default;

  /// Facts of the export of exactly this name. The name comes from a client and may hold any byte.
  std::optional<export_facts> find(std::string_view name) const { return do_find(name); }
  /// All exports, ordered by name.
  std::vector<export_facts> list() const { return do_list(); }

 private:
  virtual std::optional<export_facts> do_find(std::string_view name) const = 0;
  virtual std::vector<export_facts> do_list() const = 0;
};

}  // namespace weir::nbd
