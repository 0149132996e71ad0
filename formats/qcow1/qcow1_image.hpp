// Where the clusters of an image of qcow version 1 are, read-only, from weir's own reading of its tables. The format's
// driver lets libqcow read what is allocated (decoded_image.hpp), except in images whose L2 tables are not one cluster
// long (every overlay that QEMU makes): libqcow returns zeros or errors there, so these are read as mapped. `weir verify` holds this map and the engine's own
// decoder against libqcow. The content of encrypted clusters is libqcow's alone.
//
// Both levels of tables are read through one cache of slices; nothing is allocated by what the header says.
#pragma once

#include "engine/block/image.hpp"
#include "formats/qcow1/header.hpp"
#include "formats/qcow1/read_only_image.hpp"
#include "formats/qcow2/slice_cache.hpp"

#include <memory>
#include <optional>

namespace weir::qcow1 {

class qcow1_image final : public read_only_image {
 public:
  qcow1_image(executor context, std::unique_ptr<storage> from, const header& parsed,
              std::optional<backing_reference> backing, std::size_t cache_bytes);

  const header& parsed() const noexcept { return head_; }

  std::string_view format() const noexcept override { return "qcow"; }
  std::uint64_t virtual_size() const noexcept override { return head_.virtual_size; }
  std::uint64_t grain() const noexcept override { return head_.cluster_bytes(); }
  const std::optional<backing_reference>& backing() const noexcept override { return backing_; }
  std::vector<image_fact> facts() const override;
  storage& storage_at(std::uint8_t) noexcept override { return *file_; }

 private:
  /// One look-up under way: the table slices it needs and does not find.
  struct answer {
    std::optional<result<extent>> found;
    std::uint64_t missing_slice = 0;
  };
  answer look_up(byte_range range);
  /// The entry at `position` of a table; nothing (and the slice that is missing) if it is not cached.
  std::optional<std::uint64_t> entry_at(std::uint64_t table, std::uint64_t index, std::uint64_t& missing);
  result<extent> describe(std::uint64_t entry, std::uint64_t guest_offset, std::uint64_t most) const;

  task<result<extent>> do_map(byte_range range, map_effort effort) override;
  std::optional<result<extent>> do_try_map(byte_range range, map_effort effort) override;
  task<result<void>> do_close() override;

  std::unique_ptr<storage> file_;
  header head_;
  std::optional<backing_reference> backing_;
  qcow2::slice_cache tables_;
};

}  // namespace weir::qcow1
