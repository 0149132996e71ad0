// Every verb of this build.
#pragma once

#include "cli/verb.hpp"

#include <span>
#include <string_view>

namespace weir::cli {

// One file per verb, cli/NAME_verb.cpp; the smallest are in cli/runtime_verbs.cpp.
verb bitmap_verb();
verb backup_verb();
verb blockcommit_verb();
verb blockcopy_verb();
verb blockjob_verb();
verb blockpull_verb();
verb chain_verb();
verb check_verb();
verb commit_verb();
verb compare_verb();
verb convert_verb();
verb copy_on_read_verb();
verb create_verb();
verb ctl_verb();
verb domblklist_verb();
verb dumpxml_verb();
verb info_verb();
verb map_verb();
verb measure_verb();
verb rebase_verb();
verb resize_verb();
verb serve_verb();
verb snapshot_verb();
verb tls_verb();
verb verify_verb();

/// In the order of `weir help`.
std::span<const verb> verbs();
/// The verb called `name`, or null.
const verb* find_verb(std::string_view name);

}  // namespace weir::cli
