// drive-mirror and blockdev-mirror. The latter's target is an image that exists, named as users name images: nodes are
// not added one by one here.
#include "engine/control/arguments.hpp"
#include "engine/control/command_table.hpp"

#include <array>
#include <bit>
#include <utility>

namespace weir {
namespace {

namespace json = boost::json;

constexpr std::array<std::string_view, 5> syncs{"full", "top", "none", "incremental", "bitmap"};
constexpr std::array<std::string_view, 2> modes{"existing", "absolute-paths"};
constexpr std::array<std::string_view, 5> error_policies{"report", "ignore", "enospc", "stop", "auto"};
constexpr std::array<std::string_view, 3> copy_modes{"background", "write-blocking", "weir-automatic"};
constexpr std::int64_t smallest_granularity = 512;
constexpr std::int64_t largest_granularity = 64LL << 20;

struct mirror_arguments {
  mirror_request request;
  std::optional<std::string> job_id;
  std::string device;
  std::size_t sync = 0;
  std::int64_t speed = 0;
  std::optional<std::int64_t> granularity;
  std::optional<std::int64_t> buffer;
  std::optional<std::size_t> source_policy;
  std::optional<std::size_t> target_policy;
};

on_error policy_at(std::size_t position) {
  constexpr std::array policies{on_error::report, on_error::ignore, on_error::enospc, on_error::stop,
                                on_error::report};
  return policies[position];
}

/// What both commands have, in the order of QEMU's schema, then weir's own.
void decode_common(argument_reader& reader, mirror_arguments& wanted) {
  wanted.speed = reader.optional_integer("speed").value_or(0);
  wanted.granularity = reader.optional_integer("granularity");
  wanted.buffer = reader.optional_integer("buf-size");
  wanted.source_policy = reader.optional_word("on-source-error", error_policies);
  wanted.target_policy = reader.optional_word("on-target-error", error_policies);
  const auto mode = reader.optional_word("copy-mode", copy_modes);
  constexpr std::array chosen{copy_mode::background, copy_mode::write_blocking, copy_mode::automatic};
  if (mode) wanted.request.options.mode = chosen[*mode];
  wanted.request.settings.auto_finalize = reader.optional_boolean("auto-finalize").value_or(true);
  wanted.request.settings.auto_dismiss = reader.optional_boolean("auto-dismiss").value_or(true);
  wanted.request.base = reader.optional_string("weir-base").value_or("");
}

mirror_arguments decode_drive(argument_reader& reader) {
  mirror_arguments wanted;
  wanted.job_id = reader.optional_string("job-id");
  wanted.device = reader.string("device");
  wanted.request.target = reader.string("target");
  wanted.request.format = reader.optional_string("format").value_or("");
  wanted.sync = reader.word("sync", syncs);
  wanted.request.existing = reader.optional_word("mode", modes).value_or(1) == 0;
  reader.optional_boolean("unmap");
  decode_common(reader, wanted);
  return wanted;
}

mirror_arguments decode_blockdev(argument_reader& reader) {
  mirror_arguments wanted;
  wanted.job_id = reader.optional_string("job-id");
  wanted.device = reader.string("device");
  wanted.request.target = reader.string("target");
  wanted.sync = reader.word("sync", syncs);
  wanted.request.existing = true;
  reader.optional_string("filter-node-name");
  wanted.request.options.target_is_zero = reader.optional_boolean("target-is-zero").value_or(false);
  wanted.request.format = reader.optional_string("weir-format").value_or("");
  decode_common(reader, wanted);
  return wanted;
}

qmp_result<void> check(mirror_arguments& wanted) {
  if (wanted.sync > 2) {
    return generic_error("Sync mode '" + std::string(syncs[wanted.sync]) + "' not supported");
  }
  constexpr std::array kinds{mirror_sync::full, mirror_sync::top, mirror_sync::none};
  wanted.request.options.sync = kinds[wanted.sync];
  if (!wanted.request.base.empty() && wanted.sync != 1) {
    return generic_error("Parameter 'weir-base' is for sync mode 'top'");
  }
  if (wanted.speed < 0) return generic_error("Parameter 'speed' expects a non-negative value");
  wanted.request.settings.speed_bytes_per_s = static_cast<std::uint64_t>(wanted.speed);
  if (const std::int64_t granularity = wanted.granularity.value_or(0); granularity != 0) {
    if (granularity < smallest_granularity || granularity > largest_granularity) {
      return generic_error("Parameter 'granularity' expects a value in range [512B, 64MB]");
    }
    if (!std::has_single_bit(static_cast<std::uint64_t>(granularity))) {
      return generic_error("Parameter 'granularity' expects a power of 2");
    }
    wanted.request.options.granularity_bytes = static_cast<std::uint64_t>(granularity);
  }
  if (wanted.buffer.value_or(0) < 0)
    return generic_error("Parameter 'buf-size' expects a non-negative value");
  if (wanted.buffer.value_or(0) > 0) {
    wanted.request.options.buffer_bytes = static_cast<std::uint64_t>(*wanted.buffer);
  }
  // One policy for both sides; the stricter wish counts.
  const std::size_t policy = wanted.target_policy.value_or(wanted.source_policy.value_or(0));
  if (wanted.source_policy.value_or(policy) != policy) {
    return generic_error("'on-source-error' and 'on-target-error' have to be the same");
  }
  wanted.request.settings.error_policy = policy_at(policy);
  return {};
}

task<qmp_reply> start(engine_control& engine, mirror_arguments wanted) {
  if (const auto checked = check(wanted); checked.has_error()) co_return checked.error();
  const disk* const source = engine.find_disk(wanted.device);
  if (source == nullptr) {
    co_return generic_error("Cannot find device='" + wanted.device + "' nor node-name='" + wanted.device +
                            "'");
  }
  wanted.request.disk = source->name();
  wanted.request.settings.id = wanted.job_id.value_or(source->name());
  const outcome<void> started = co_await engine.start_mirror(std::move(wanted.request));
  if (started.has_error()) co_return generic_error(started.error());
  co_return json::value(json::object{});
}

}  // namespace

task<qmp_reply> run_drive_mirror(engine_control& engine, const json::object& arguments) {
  argument_reader reader(arguments);
  mirror_arguments wanted = decode_drive(reader);
  if (auto checked = reader.finish(); checked.has_error()) co_return checked.error();
  co_return co_await start(engine, std::move(wanted));
}

task<qmp_reply> run_blockdev_mirror(engine_control& engine, const json::object& arguments) {
  argument_reader reader(arguments);
  mirror_arguments wanted = decode_blockdev(reader);
  if (auto checked = reader.finish(); checked.has_error()) co_return checked.error();
  co_return co_await start(engine, std::move(wanted));
}

}  // namespace weir
