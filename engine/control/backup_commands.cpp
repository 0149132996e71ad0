// drive-backup and blockdev-backup. The latter's target is an image that exists, named as users name images: nodes are
// not added one by one here.
#include "engine/control/arguments.hpp"
#include "engine/control/backup_arguments.hpp"
#include "engine/control/command_table.hpp"

#include <array>
#include <utility>

namespace weir {
namespace {

namespace json = boost::json;

constexpr std::array<std::string_view, 5> syncs{"full", "top", "none", "incremental", "bitmap"};
constexpr std::array<std::string_view, 3> bitmap_modes{"on-success", "never", "always"};
constexpr std::array<std::string_view, 2> modes{"existing", "absolute-paths"};
constexpr std::array<std::string_view, 5> error_policies{"report", "ignore", "enospc", "stop", "auto"};
constexpr std::array<std::string_view, 2> save_failures{"break-guest-write", "break-snapshot"};

struct backup_arguments {
  backup_request request;
  std::optional<std::string> job_id;
  std::string device;
  std::size_t sync = 0;
  std::int64_t speed = 0;
  std::optional<std::string> bitmap;
  std::optional<std::size_t> bitmap_mode;
  std::optional<std::size_t> target_policy;
};

on_error policy_at(std::size_t position) {
  constexpr std::array policies{on_error::report, on_error::ignore, on_error::enospc, on_error::stop,
                                on_error::report};
  return policies[position];
}

/// What both commands have, in the order of QEMU's schema.
void decode_common(argument_reader& reader, backup_arguments& wanted) {
  wanted.job_id = reader.optional_string("job-id");
  wanted.device = reader.string("device");
  wanted.sync = reader.word("sync", syncs);
  wanted.speed = reader.optional_integer("speed").value_or(0);
  wanted.bitmap = reader.optional_string("bitmap");
  wanted.bitmap_mode = reader.optional_word("bitmap-mode", bitmap_modes);
  wanted.request.options.encode = reader.optional_boolean("compress").value_or(false);
  reader.optional_word("on-source-error", error_policies);
  wanted.target_policy = reader.optional_word("on-target-error", error_policies);
  const auto broken = reader.optional_word("on-cbw-error", save_failures);
  wanted.request.options.on_save_failure =
      broken.value_or(0) == 0 ? save_failure::break_guest_write : save_failure::break_backup;
  wanted.request.settings.auto_finalize = reader.optional_boolean("auto-finalize").value_or(true);
  wanted.request.settings.auto_dismiss = reader.optional_boolean("auto-dismiss").value_or(true);
  reader.optional_string("filter-node-name");
}

qmp_result<void> check_bitmap(backup_arguments& wanted) {
  const bool wants_bitmap = wanted.sync >= 3;
  if (wants_bitmap && !wanted.bitmap) {
    return generic_error("must provide a valid bitmap name for '" + std::string(syncs[wanted.sync]) +
                         "' sync mode");
  }
  if (!wants_bitmap && wanted.bitmap) {
    return generic_error("Bitmap sync mode given without a sync mode that uses a bitmap");
  }
  if (wanted.sync == 4 && !wanted.bitmap_mode) return generic_error("Bitmap sync mode must be given");
  if (wanted.bitmap_mode == 2U) return generic_error("Bitmap sync mode 'always' not supported");
  wanted.request.options.bitmap = wanted.bitmap.value_or("");
  wanted.request.options.keeps_bitmap = wanted.bitmap_mode == 1U;
  return {};
}

qmp_result<void> check(backup_arguments& wanted) {
  if (wanted.sync == 2) return generic_error("Sync mode 'none' not supported");
  constexpr std::array kinds{backup_sync::full, backup_sync::top, backup_sync::full, backup_sync::incremental,
                             backup_sync::incremental};
  wanted.request.options.sync = kinds[wanted.sync];
  if (wanted.speed < 0) return generic_error("Parameter 'speed' expects a non-negative value");
  wanted.request.settings.speed_bytes_per_s = static_cast<std::uint64_t>(wanted.speed);
  wanted.request.settings.error_policy = policy_at(wanted.target_policy.value_or(0));
  return check_bitmap(wanted);
}

void decode_drive(argument_reader& reader, backup_request& request) {
  request.target = reader.string("target");
  request.format = reader.optional_string("format").value_or("");
  request.existing = reader.optional_word("mode", modes).value_or(1) == 0;
}

void decode_blockdev(argument_reader& reader, backup_request& request) {
  request.target = reader.string("target");
  request.existing = true;
  request.format = reader.optional_string("weir-format").value_or("");
}

task<qmp_reply> start(engine_control& engine, const json::object& arguments, backup_command command) {
  auto request = decode_backup(engine, arguments, command);
  if (request.has_error()) co_return request.error();
  auto prepared = co_await engine.prepare_backup(std::move(*request));
  if (prepared.has_error()) co_return generic_error(prepared.error());
  prepared->reserved->end();
  const outcome<void> started = engine.jobs().start(std::move(prepared->job));
  if (started.has_error()) co_return generic_error(started.error());
  co_return json::value(json::object{});
}

}  // namespace

qmp_result<backup_request> decode_backup(engine_control& engine, const json::object& arguments,
                                         backup_command command) {
  argument_reader reader(arguments);
  backup_arguments wanted;
  decode_common(reader, wanted);
  if (command == backup_command::drive) {
    decode_drive(reader, wanted.request);
  } else {
    decode_blockdev(reader, wanted.request);
  }
  if (auto checked = reader.finish(); checked.has_error()) return checked.error();
  if (const auto checked = check(wanted); checked.has_error()) return checked.error();
  const disk* const source = engine.find_disk(wanted.device);
  if (source == nullptr) {
    return generic_error("Cannot find device='" + wanted.device + "' nor node-name='" + wanted.device + "'");
  }
  wanted.request.disk = source->name();
  wanted.request.settings.id = wanted.job_id.value_or(source->name());
  return std::move(wanted.request);
}

task<qmp_reply> run_drive_backup(engine_control& engine, const json::object& arguments) {
  return start(engine, arguments, backup_command::drive);
}

task<qmp_reply> run_blockdev_backup(engine_control& engine, const json::object& arguments) {
  return start(engine, arguments, backup_command::blockdev);
}

}  // namespace weir
