// The exports of a server: names and the disks behind them, changed while clients come and go.
#pragma once

#include "engine/base/error.hpp"
#include "engine/block/disk.hpp"
#include "engine/nbd/export_catalog.hpp"

#include <map>
#include <memory>
#include <string>
#include <vector>

namespace weir::nbd {

struct export_entry {
  std::string name;         ///< at most 4096 bytes, without NUL; may be empty
  std::string description;  ///< for people; at most 4096 bytes
  disk* target = nullptr;   ///< outlives the entry and every connection to it
  bool read_only = false;   ///< even if the disk is not
  /// Dirty bitmaps of the active image that clients may look at; at most most_bitmaps.
  std::vector<std::string> bitmaps = {};
};

class export_table final : public export_catalog {
 public:
  /// Errors: EEXIST for a name in use, EINVAL for names, a description or bitmaps that NBD cannot carry.
  outcome<void> add(export_entry entry);
  /// New clients no longer find it; connections keep what they have. See nbd_server::remove_export.
  std::shared_ptr<const export_entry> remove(std::string_view name);
  /// Null if there is none.
  std::shared_ptr<const export_entry> at(std::string_view name) const;

 private:
  std::optional<export_facts> do_find(std::string_view name) const override;
  std::vector<export_facts> do_list() const override;

  std::map<std::string, std::shared_ptr<const export_entry>, std::less<>> entries_;
};

}  // namespace weir::nbd
