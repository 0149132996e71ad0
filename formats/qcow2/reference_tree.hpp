// Everything that one L1 table leads to, as references: counting one more or one less on each, and keeping COPIED
// flags true to the counts (images.md sections 2 and 3).
//
// A walk goes table by table and slice by slice through the L2 cache, so that it takes little memory however large
// the image is; where the caches fill up it has a flush pass write them. A pass writes counts before flags. So while
// counts are raised COPIED may stand over a count above one; it is clear before the header names the second table that
// leads there, and until then writing in place harms nobody. It is set only where the lowered count is on the storage;
// clear over a count of one it costs a copy, no data.
//
// Precondition of all: the image's allocation lock is held and nothing else uses the image.
#pragma once

#include "engine/base/error.hpp"
#include "engine/base/task.hpp"
#include "formats/qcow2/allocator.hpp"
#include "formats/qcow2/flusher.hpp"
#include "formats/qcow2/image_tables.hpp"
#include "formats/qcow2/refcounts.hpp"

#include <cstdint>
#include <vector>

namespace weir::qcow2 {

class reference_tree {
 public:
  reference_tree(image_tables& tables, refcounts& counts, allocator& clusters, flusher& passes)
      : tables_(tables), counts_(counts), clusters_(clusters), passes_(passes) {}

  using l1_entries = std::vector<std::uint64_t>;

  /// Changes nothing. Errors: corrupt_image if anything named lies outside the file, in metadata, is not counted, or is an L2
  /// table named twice;
  /// EOVERFLOW if share() could raise a count above what its width holds.
  task<result<void>> check(const l1_entries& l1, bool may_share);
  /// One reference more on each L2 table and each cluster; COPIED is cleared in the L2 tables.
  /// Precondition: check().
  task<result<void>> share(const l1_entries& l1);
  /// One reference less on each. Precondition: no pointer on the storage leads here from where the references came.
  task<result<void>> release(const l1_entries& l1);
  /// Sets COPIED in the active tables where the count is one, clears it elsewhere.
  task<result<void>> refresh_copied();

 private:
  struct slice_walk;

  /// Offset of the L2 table an entry names, 0 for none. Errors: corrupt_image.
  result<std::uint64_t> table_of(std::uint64_t raw) const;
  /// Makes the slice's bytes available until the next suspension.
  task<result<void>> fetch(std::uint64_t slice);
  task<result<void>> relieve();
  task<result<void>> check_slice(std::uint64_t slice, bool may_share);
  task<result<void>> check_count(std::uint64_t cluster, std::uint64_t more);
  task<result<void>> share_slice(std::uint64_t slice);
  task<result<void>> add_references(const std::vector<std::uint64_t>& clusters);
  task<result<void>> refresh_slice(std::uint64_t slice);

  image_tables& tables_;
  refcounts& counts_;
  allocator& clusters_;
  flusher& passes_;
};

}  // namespace weir::qcow2
