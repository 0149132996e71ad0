#include "cli/verbs.hpp"

#include <array>

namespace weir::cli {

std::span<const verb> verbs() {
  static const std::array table{
      create_verb(),   info_verb(),         chain_verb(),      dumpxml_verb(),     map_verb(),
      check_verb(),    verify_verb(),       snapshot_verb(),   bitmap_verb(),      convert_verb(),
      compare_verb(),  measure_verb(),      resize_verb(),     rebase_verb(),      commit_verb(),
      serve_verb(),    blockpull_verb(),    backup_verb(),     blockcommit_verb(), blockcopy_verb(),
      blockjob_verb(), copy_on_read_verb(), domblklist_verb(), ctl_verb(),         tls_verb(),
  };
  return table;
}

const verb* find_verb(std::string_view name) {
  for (const verb& candidate : verbs()) {
    if (candidate.name == name) return &candidate;
  }
  return nullptr;
}

}  // namespace weir::cli
