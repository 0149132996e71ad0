#include "engine/control/command_table.hpp"

#include <algorithm>
#include <array>
#include <string>

namespace weir {
namespace {

constexpr std::array table{
    qmp_command{"block-commit", run_block_commit},
    qmp_command{"block-dirty-bitmap-add", run_block_dirty_bitmap_add},
    qmp_command{"block-dirty-bitmap-clear", run_block_dirty_bitmap_clear},
    qmp_command{"block-dirty-bitmap-disable", run_block_dirty_bitmap_disable},
    qmp_command{"block-dirty-bitmap-enable", run_block_dirty_bitmap_enable},
    qmp_command{"block-dirty-bitmap-merge", run_block_dirty_bitmap_merge},
    qmp_command{"block-dirty-bitmap-remove", run_block_dirty_bitmap_remove},
    qmp_command{"block-export-add", run_block_export_add},
    qmp_command{"block-export-del", run_block_export_del},
    qmp_command{"block-job-cancel", run_block_job_cancel},
    qmp_command{"block-job-complete", run_block_job_complete},
    qmp_command{"block-job-dismiss", run_block_job_dismiss},
    qmp_command{"block-job-finalize", run_block_job_finalize},
    qmp_command{"block-job-pause", run_block_job_pause},
    qmp_command{"block-job-resume", run_block_job_resume},
    qmp_command{"block-job-set-speed", run_block_job_set_speed},
    qmp_command{"block-stream", run_block_stream},
    qmp_command{"blockdev-backup", run_blockdev_backup},
    qmp_command{"blockdev-mirror", run_blockdev_mirror},
    qmp_command{"drive-backup", run_drive_backup},
    qmp_command{"drive-mirror", run_drive_mirror},
    qmp_command{"job-cancel", run_job_cancel},
    qmp_command{"job-complete", run_job_complete},
    qmp_command{"job-dismiss", run_job_dismiss},
    qmp_command{"job-finalize", run_job_finalize},
    qmp_command{"job-pause", run_job_pause},
    qmp_command{"job-resume", run_job_resume},
    qmp_command{"nbd-server-start", run_nbd_server_start},
    qmp_command{"nbd-server-stop", run_nbd_server_stop},
    qmp_command{"object-add", run_object_add},
    qmp_command{"object-del", run_object_del},
    qmp_command{"query-block-exports", run_query_block_exports},
    qmp_command{"query-block-jobs", run_query_block_jobs},
    qmp_command{"query-commands", run_query_commands},
    qmp_command{"query-jobs", run_query_jobs},
    qmp_command{"query-named-block-nodes", run_query_named_block_nodes},
    qmp_command{"query-version", run_query_version},
    qmp_command{"quit", run_quit},
    qmp_command{"transaction", run_transaction},
    qmp_command{"weir-copy-on-read", run_weir_copy_on_read},
    qmp_command{"weir-domblklist", run_weir_domblklist},
    qmp_command{"weir-dumpxml", run_weir_dumpxml},
};
static_assert(std::ranges::is_sorted(table, {}, &qmp_command::name));

}  // namespace

std::span<const qmp_command> qmp_commands() {
  return table;
}

command_handler find_command(std::string_view name) {
  const auto found = std::ranges::lower_bound(table, name, {}, &qmp_command::name);
  return found != table.end() && found->name == name ? found->handler : nullptr;
}

qmp_error command_not_found(std::string_view name) {
  return {"CommandNotFound", "The command " + std::string(name) + " has not been found"};
}

disk* engine_control::find_disk(std::string_view name) const {
  for (disk* each : disks()) {
    if (each->name() == name) return each;
  }
  return nullptr;
}

}  // namespace weir
