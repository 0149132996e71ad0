// block-stream and the commands on running jobs. The block-job-* and job-* families differ in the name of the
// argument, in how an unknown job is refused, and in that block-job-cancel looks before it leaps.
#include "engine/control/arguments.hpp"
#include "engine/control/command_table.hpp"
#include "engine/control/node_name.hpp"

#include <array>
#include <utility>

namespace weir {
namespace {

namespace json = boost::json;

qmp_reply reply_of(const outcome<void>& done) {
  if (done.has_error()) return generic_error(done.error());
  return json::value(json::object{});
}

qmp_error no_node(std::string_view device, std::string_view node) {
  return generic_error("Cannot find device='" + std::string(device) + "' nor node-name='" +
                       std::string(node) + "'");
}

struct stream_arguments {
  std::optional<std::string> job_id;
  std::string device;
  std::optional<std::string> base;
  std::optional<std::string> base_node;
  std::optional<std::string> bottom;
  std::optional<std::string> backing_file;
  std::int64_t speed = 0;
  bool keep_relative = false;
  job_settings settings;
};

constexpr std::array<std::string_view, 5> error_policies{"report", "ignore", "enospc", "stop", "auto"};

on_error policy_at(std::size_t position) {
  switch (position) {
    case 1:
      return on_error::ignore;
    case 2:
      return on_error::enospc;
    case 3:
      return on_error::stop;
    default:
      return on_error::report;
  }
}

/// Members in the order of QEMU's schema of block-stream, then weir's own.
qmp_result<stream_arguments> decode_stream(const json::object& arguments) {
  argument_reader reader(arguments);
  stream_arguments wanted;
  wanted.job_id = reader.optional_string("job-id");
  wanted.device = reader.string("device");
  wanted.base = reader.optional_string("base");
  wanted.base_node = reader.optional_string("base-node");
  wanted.backing_file = reader.optional_string("backing-file");
  reader.optional_boolean("backing-mask-protocol");
  wanted.bottom = reader.optional_string("bottom");
  wanted.speed = reader.optional_integer("speed").value_or(0);
  wanted.settings.error_policy = policy_at(reader.optional_word("on-error", error_policies).value_or(0));
  reader.optional_string("filter-node-name");
  wanted.settings.auto_finalize = reader.optional_boolean("auto-finalize").value_or(true);
  wanted.settings.auto_dismiss = reader.optional_boolean("auto-dismiss").value_or(true);
  wanted.keep_relative = reader.optional_boolean("weir-keep-relative").value_or(false);
  if (auto checked = reader.finish(); checked.has_error()) return checked.error();
  return wanted;
}

qmp_result<void> check_stream(const stream_arguments& wanted) {
  if (wanted.base && wanted.base_node) {
    return generic_error("'base' and 'base-node' cannot be specified at the same time");
  }
  if (wanted.base && wanted.bottom) {
    return generic_error("'base' and 'bottom' cannot be specified at the same time");
  }
  if (wanted.bottom && wanted.base_node) {
    return generic_error("'bottom' and 'base-node' cannot be specified at the same time");
  }
  return {};
}

/// The name of the layer that stays, in chain::find_layer's words; empty where none does.
qmp_result<std::string> base_of(const stream_arguments& wanted, const disk& target) {
  const chain& layers = target.chain();
  if (wanted.base) {
    const auto at = layers.find_layer(target.name(), *wanted.base);
    if (!at || *at == 0) return generic_error("Can't find '" + *wanted.base + "' in the backing chain");
    return *wanted.base;
  }
  const std::optional<std::string>& node = wanted.bottom ? wanted.bottom : wanted.base_node;
  if (!node) return std::string();
  const auto at = layers.find_layer(target.name(), *node);
  if (!at) return no_node("", *node);
  if (!wanted.bottom) {
    if (*at == 0) {
      return generic_error("Node '" + *node + "' is not a backing image of '" + target.name() + "'");
    }
    return *node;
  }
  if (*at + 1 >= layers.depth()) return std::string();
  return node_name(target, *at + 1);
}

struct job_command {
  std::string_view argument;
  qmp_error (*unknown)(const std::string& id);
};

constexpr job_command block_job{"device", [](const std::string& id) {
                                  return qmp_error{"DeviceNotActive", "Block job '" + id + "' not found"};
                                }};
/// block-job-finalize and block-job-dismiss call the argument `id`.
constexpr job_command block_job_by_id{"id", block_job.unknown};
constexpr job_command plain_job{"id", [](const std::string&) { return generic_error("Job not found"); }};

/// QEMU's words where it has more to say than that the state does not allow it.
outcome<void> pause(job& target) {
  if (target.pause_requested()) return failure{errc::not_supported, "Job is already paused"};
  return target.pause();
}

outcome<void> resume(job& target) {
  if (!target.pause_requested()) {
    return failure{errc::not_supported, "Can't resume a job that was not paused"};
  }
  return target.resume();
}

outcome<void> cancel(job& target) {
  return target.cancel();
}
outcome<void> complete(job& target) {
  return target.complete();
}
outcome<void> finalize(job& target) {
  return target.finalize();
}
outcome<void> dismiss(job& target) {
  return target.dismiss();
}

using job_action = outcome<void> (*)(job& target);

task<qmp_reply> act(engine_control& engine, const json::object& arguments, job_command family,
                    job_action action) {
  argument_reader reader(arguments);
  const std::string id = reader.string(family.argument);
  if (auto checked = reader.finish(); checked.has_error()) co_return checked.error();
  job* const target = engine.jobs().find(id);
  if (target == nullptr) co_return family.unknown(id);
  const outcome<void> done = action(*target);
  co_return reply_of(done);
}

}  // namespace

task<qmp_reply> run_block_stream(engine_control& engine, const json::object& arguments) {
  const auto decoded = decode_stream(arguments);
  if (decoded.has_error()) co_return decoded.error();
  const stream_arguments& wanted = *decoded;
  if (const auto checked = check_stream(wanted); checked.has_error()) co_return checked.error();
  const disk* const target = engine.find_disk(wanted.device);
  if (target == nullptr) co_return no_node(wanted.device, wanted.device);
  const auto base = base_of(wanted, *target);
  if (base.has_error()) co_return base.error();
  if (wanted.backing_file && base->empty()) {
    co_return generic_error("backing file specified, but streaming the entire chain");
  }
  stream_request request;
  request.settings = wanted.settings;
  request.settings.id = wanted.job_id.value_or(target->name());
  request.disk = target->name();
  request.base = *base;
  request.backing_name = wanted.backing_file;
  request.keep_relative = wanted.keep_relative;
  const outcome<void> allowed = engine.jobs().may_start(request.settings.id, request.disk);
  if (allowed.has_error()) co_return generic_error(allowed.error());
  if (wanted.speed < 0) co_return generic_error("Parameter 'speed' expects a non-negative value");
  request.settings.speed_bytes_per_s = static_cast<std::uint64_t>(wanted.speed);
  const outcome<void> started = engine.start_stream(std::move(request));
  co_return reply_of(started);
}

task<qmp_reply> run_block_job_set_speed(engine_control& engine, const json::object& arguments) {
  argument_reader reader(arguments);
  const std::string id = reader.string("device");
  const std::int64_t speed = reader.integer("speed");
  if (auto checked = reader.finish(); checked.has_error()) co_return checked.error();
  job* const target = engine.jobs().find(id);
  if (target == nullptr) co_return block_job.unknown(id);
  if (speed < 0) co_return generic_error("Parameter 'speed' expects a non-negative value");
  const outcome<void> done = engine.jobs().set_speed(*target, static_cast<std::uint64_t>(speed));
  co_return reply_of(done);
}

task<qmp_reply> run_block_job_cancel(engine_control& engine, const json::object& arguments) {
  argument_reader reader(arguments);
  const std::string id = reader.string("device");
  const bool force = reader.optional_boolean("force").value_or(false);
  if (auto checked = reader.finish(); checked.has_error()) co_return checked.error();
  job* const target = engine.jobs().find(id);
  if (target == nullptr) co_return block_job.unknown(id);
  if (target->pause_requested() && !force) {
    co_return generic_error("The block job for device '" + id + "' is currently paused");
  }
  // A copy that is ready is whole: only `force` throws it away.
  const outcome<void> done = force ? target->cancel() : target->finish();
  co_return reply_of(done);
}

task<qmp_reply> run_block_job_pause(engine_control& engine, const json::object& arguments) {
  return act(engine, arguments, block_job, pause);
}
task<qmp_reply> run_block_job_resume(engine_control& engine, const json::object& arguments) {
  return act(engine, arguments, block_job, resume);
}
task<qmp_reply> run_block_job_complete(engine_control& engine, const json::object& arguments) {
  return act(engine, arguments, block_job, complete);
}
task<qmp_reply> run_block_job_finalize(engine_control& engine, const json::object& arguments) {
  return act(engine, arguments, block_job_by_id, finalize);
}
task<qmp_reply> run_block_job_dismiss(engine_control& engine, const json::object& arguments) {
  return act(engine, arguments, block_job_by_id, dismiss);
}
task<qmp_reply> run_job_cancel(engine_control& engine, const json::object& arguments) {
  return act(engine, arguments, plain_job, cancel);
}
task<qmp_reply> run_job_pause(engine_control& engine, const json::object& arguments) {
  return act(engine, arguments, plain_job, pause);
}
task<qmp_reply> run_job_resume(engine_control& engine, const json::object& arguments) {
  return act(engine, arguments, plain_job, resume);
}
task<qmp_reply> run_job_complete(engine_control& engine, const json::object& arguments) {
  return act(engine, arguments, plain_job, complete);
}
task<qmp_reply> run_job_finalize(engine_control& engine, const json::object& arguments) {
  return act(engine, arguments, plain_job, finalize);
}
task<qmp_reply> run_job_dismiss(engine_control& engine, const json::object& arguments) {
  return act(engine, arguments, plain_job, dismiss);
}

}  // namespace weir
