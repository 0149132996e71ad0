// block-commit.
#include "engine/control/arguments.hpp"
#include "engine/control/command_table.hpp"

#include <array>
#include <utility>

namespace weir {
namespace {

namespace json = boost::json;

constexpr std::array<std::string_view, 5> error_policies{"report", "ignore", "enospc", "stop", "auto"};

struct commit_arguments {
  commit_request request;
  std::optional<std::string> job_id;
  std::string device;
  std::optional<std::string> base_node;
  std::optional<std::string> base;
  std::optional<std::string> top_node;
  std::optional<std::string> top;
  std::int64_t speed = 0;
};

/// Members in the order of QEMU's schema, then weir's own.
qmp_result<commit_arguments> decode(const json::object& arguments) {
  argument_reader reader(arguments);
  commit_arguments wanted;
  wanted.job_id = reader.optional_string("job-id");
  wanted.device = reader.string("device");
  wanted.base_node = reader.optional_string("base-node");
  wanted.base = reader.optional_string("base");
  wanted.top_node = reader.optional_string("top-node");
  wanted.top = reader.optional_string("top");
  wanted.request.backing_name = reader.optional_string("backing-file");
  reader.optional_boolean("backing-mask-protocol");
  wanted.speed = reader.optional_integer("speed").value_or(0);
  constexpr std::array policies{on_error::report, on_error::ignore, on_error::enospc, on_error::stop,
                                on_error::report};
  wanted.request.settings.error_policy =
      policies[reader.optional_word("on-error", error_policies).value_or(0)];
  reader.optional_string("filter-node-name");
  wanted.request.settings.auto_finalize = reader.optional_boolean("auto-finalize").value_or(true);
  wanted.request.settings.auto_dismiss = reader.optional_boolean("auto-dismiss").value_or(true);
  wanted.request.keep_relative = reader.optional_boolean("weir-keep-relative").value_or(false);
  wanted.request.deletes = reader.optional_boolean("weir-delete").value_or(false);
  if (auto checked = reader.finish(); checked.has_error()) return checked.error();
  return wanted;
}

qmp_result<void> check(commit_arguments& wanted) {
  if (wanted.base && wanted.base_node) {
    return generic_error("'base-node' and 'base' are mutually exclusive");
  }
  if (wanted.top && wanted.top_node) return generic_error("'top-node' and 'top' are mutually exclusive");
  if (wanted.speed < 0) return generic_error("Parameter 'speed' expects a non-negative value");
  wanted.request.settings.speed_bytes_per_s = static_cast<std::uint64_t>(wanted.speed);
  wanted.request.base = wanted.base.value_or(wanted.base_node.value_or(""));
  wanted.request.top = wanted.top.value_or(wanted.top_node.value_or(""));
  return {};
}

}  // namespace

task<qmp_reply> run_block_commit(engine_control& engine, const json::object& arguments) {
  auto decoded = decode(arguments);
  if (decoded.has_error()) co_return decoded.error();
  commit_arguments& wanted = *decoded;
  if (const auto checked = check(wanted); checked.has_error()) co_return checked.error();
  const disk* const target = engine.find_disk(wanted.device);
  if (target == nullptr) {
    co_return generic_error("Cannot find device='" + wanted.device + "' nor node-name='" + wanted.device +
                            "'");
  }
  if (target->read_only()) co_return generic_error("Block node is read-only");
  const auto top = wanted.request.top.empty()
                       ? std::optional<std::size_t>(0)
                       : target->chain().find_layer(target->name(), wanted.request.top);
  if (top == 0U && wanted.request.backing_name) {
    co_return generic_error("'backing-file' specified, but 'top' is the active layer");
  }
  wanted.request.disk = target->name();
  wanted.request.settings.id = wanted.job_id.value_or(target->name());
  const outcome<void> started = co_await engine.start_commit(std::move(wanted.request));
  if (started.has_error()) co_return generic_error(started.error());
  co_return json::value(json::object{});
}

}  // namespace weir
