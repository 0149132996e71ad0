// The commands of the control socket.
#pragma once

#include "engine/base/task.hpp"
#include "engine/control/engine_control.hpp"
#include "engine/control/qmp_reply.hpp"

#include <boost/json/object.hpp>

#include <span>
#include <string_view>

namespace weir {

/// The references must outlive the task.
using command_handler = task<qmp_reply> (*)(engine_control& engine, const boost::json::object& arguments);

struct qmp_command {
  std::string_view name;
  command_handler handler;
};

/// Ordered by name.
std::span<const qmp_command> qmp_commands();
/// The handler of `name`, or null.
command_handler find_command(std::string_view name);

qmp_error command_not_found(std::string_view name);

// One function per command, in the file of its family.
task<qmp_reply> run_query_version(engine_control& engine, const boost::json::object& arguments);
task<qmp_reply> run_query_commands(engine_control& engine, const boost::json::object& arguments);
task<qmp_reply> run_query_named_block_nodes(engine_control& engine, const boost::json::object& arguments);
task<qmp_reply> run_query_block_jobs(engine_control& engine, const boost::json::object& arguments);
task<qmp_reply> run_query_jobs(engine_control& engine, const boost::json::object& arguments);
task<qmp_reply> run_quit(engine_control& engine, const boost::json::object& arguments);

task<qmp_reply> run_block_stream(engine_control& engine, const boost::json::object& arguments);
task<qmp_reply> run_blockdev_mirror(engine_control& engine, const boost::json::object& arguments);
task<qmp_reply> run_block_dirty_bitmap_add(engine_control& engine, const boost::json::object& arguments);
task<qmp_reply> run_block_dirty_bitmap_clear(engine_control& engine, const boost::json::object& arguments);
task<qmp_reply> run_block_dirty_bitmap_disable(engine_control& engine, const boost::json::object& arguments);
task<qmp_reply> run_block_dirty_bitmap_enable(engine_control& engine, const boost::json::object& arguments);
task<qmp_reply> run_block_dirty_bitmap_merge(engine_control& engine, const boost::json::object& arguments);
task<qmp_reply> run_block_dirty_bitmap_remove(engine_control& engine, const boost::json::object& arguments);
task<qmp_reply> run_blockdev_backup(engine_control& engine, const boost::json::object& arguments);
task<qmp_reply> run_drive_backup(engine_control& engine, const boost::json::object& arguments);
task<qmp_reply> run_block_commit(engine_control& engine, const boost::json::object& arguments);
task<qmp_reply> run_drive_mirror(engine_control& engine, const boost::json::object& arguments);
task<qmp_reply> run_block_job_set_speed(engine_control& engine, const boost::json::object& arguments);
task<qmp_reply> run_block_job_cancel(engine_control& engine, const boost::json::object& arguments);
task<qmp_reply> run_block_job_pause(engine_control& engine, const boost::json::object& arguments);
task<qmp_reply> run_block_job_resume(engine_control& engine, const boost::json::object& arguments);
task<qmp_reply> run_block_job_complete(engine_control& engine, const boost::json::object& arguments);
task<qmp_reply> run_block_job_finalize(engine_control& engine, const boost::json::object& arguments);
task<qmp_reply> run_block_job_dismiss(engine_control& engine, const boost::json::object& arguments);
task<qmp_reply> run_job_cancel(engine_control& engine, const boost::json::object& arguments);
task<qmp_reply> run_job_pause(engine_control& engine, const boost::json::object& arguments);
task<qmp_reply> run_job_resume(engine_control& engine, const boost::json::object& arguments);
task<qmp_reply> run_job_complete(engine_control& engine, const boost::json::object& arguments);
task<qmp_reply> run_job_finalize(engine_control& engine, const boost::json::object& arguments);
task<qmp_reply> run_job_dismiss(engine_control& engine, const boost::json::object& arguments);

task<qmp_reply> run_nbd_server_start(engine_control& engine, const boost::json::object& arguments);
task<qmp_reply> run_nbd_server_stop(engine_control& engine, const boost::json::object& arguments);
task<qmp_reply> run_block_export_add(engine_control& engine, const boost::json::object& arguments);
task<qmp_reply> run_block_export_del(engine_control& engine, const boost::json::object& arguments);
task<qmp_reply> run_query_block_exports(engine_control& engine, const boost::json::object& arguments);

task<qmp_reply> run_object_add(engine_control& engine, const boost::json::object& arguments);
task<qmp_reply> run_object_del(engine_control& engine, const boost::json::object& arguments);

task<qmp_reply> run_transaction(engine_control& engine, const boost::json::object& arguments);
task<qmp_reply> run_weir_copy_on_read(engine_control& engine, const boost::json::object& arguments);
task<qmp_reply> run_weir_domblklist(engine_control& engine, const boost::json::object& arguments);
task<qmp_reply> run_weir_dumpxml(engine_control& engine, const boost::json::object& arguments);

}  // namespace weir
