// Reading the tables of a QED image as a whole: where its L2 tables are, at every open, and whether every
// cluster has one owner, after an unclean shutdown (images.md section 4).
#pragma once

#include "engine/base/error.hpp"
#include "engine/base/task.hpp"
#include "engine/storage/storage.hpp"
#include "formats/qed/header.hpp"
#include "formats/qed/layout.hpp"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace weir::qed {

/// An L1 entry that is not 0.
struct table_entry {
  std::uint64_t l1_index = 0;
  std::uint64_t offset = 0;
};

struct table_survey {
  occupancy space;
  std::vector<table_entry> tables;       ///< those whose offset may be one
  std::optional<std::string> complaint;  ///< the first L1 entry that is wrong
};

/// Reads the L1 entries in use. `of` has been checked by parse_header; both outlive the task.
task<result<table_survey>> survey_tables(storage& file, const header& of);

/// Walks all L2 entries in use: each is unallocated, zero, or the only reference to a cluster of guest data.
/// Failures name the entry. Needs at most 64 MiB. Precondition: the survey has no complaint. The arguments
/// outlive the task.
task<outcome<void>> check_clusters(storage& file, const header& of, const table_survey& survey);

}  // namespace weir::qed
