// Commands that only look, and quit.
#include "engine/control/arguments.hpp"
#include "engine/control/command_table.hpp"
#include "engine/control/image_info.hpp"
#include "engine/control/job_report.hpp"
#include "engine/control/node_name.hpp"
#include "engine/control/qmp_session.hpp"

#include <boost/json/array.hpp>

#include <string>
#include <utility>

namespace weir {
namespace {

namespace json = boost::json;

qmp_result<void> take_nothing(const json::object& arguments) {
  return argument_reader(arguments).finish();
}

const char* detection_word(zero_detection how) noexcept {
  if (how == zero_detection::unmap) return "unmap";
  return how == zero_detection::on ? "on" : "off";
}

/// An entry of query-named-block-nodes (BlockDeviceInfo).
json::object describe_node(const disk& of, std::size_t depth, bool flat, cache_mode cache) {
  const chain& layers = of.chain();
  const layer& node = *layers.at(depth);
  const bool has_below = depth + 1 < layers.depth();
  json::object image = flat ? image_info(node, has_below ? layers.at(depth + 1).get() : nullptr)
                            : nested_image_info(layers, depth);
  json::object info{{"iops_rd", 0},
                    {"detect_zeroes", depth == 0 ? detection_word(of.settings().detect_zeroes) : "off"},
                    {"active", true},
                    {"image", std::move(image)},
                    {"iops_wr", 0},
                    {"ro", !node.image->writable()},
                    {"node-name", node_name(of, depth)},
                    {"backing_file_depth", layers.depth() - 1 - depth},
                    {"drv", node.image->format()},
                    {"iops", 0},
                    {"bps_wr", 0},
                    {"write_threshold", 0},
                    {"encrypted", false},
                    {"bps", 0},
                    {"bps_rd", 0},
                    {"cache",
                     {{"no-flush", cache == cache_mode::unsafe},
                      {"direct", cache == cache_mode::none || cache == cache_mode::directsync},
                      {"writeback", cache != cache_mode::directsync}}},
                    {"file", describe(node.model.source)}};
  if (has_below) info["backing_file"] = describe(layers.at(depth + 1)->model.source);
  return info;
}

}  // namespace

std::string node_name(const disk& of, std::size_t depth) {
  if (depth == 0) return of.name();
  const auto& index = of.chain().at(depth)->model.index;
  return of.name() + "[" + std::to_string(index.value_or(static_cast<unsigned>(depth))) + "]";
}

task<qmp_reply> run_query_version(engine_control& engine, const json::object& arguments) {
  if (auto checked = take_nothing(arguments); checked.has_error()) co_return checked.error();
  co_return json::value(describe_version(engine.version()));
}

task<qmp_reply> run_query_commands(engine_control&, const json::object& arguments) {
  if (auto checked = take_nothing(arguments); checked.has_error()) co_return checked.error();
  json::array names;
  names.push_back(json::object{{"name", "qmp_capabilities"}});
  for (const qmp_command& command : qmp_commands()) names.push_back(json::object{{"name", command.name}});
  co_return json::value(std::move(names));
}

task<qmp_reply> run_query_named_block_nodes(engine_control& engine, const json::object& arguments) {
  argument_reader reader(arguments);
  const bool flat = reader.optional_boolean("flat").value_or(false);
  if (auto checked = reader.finish(); checked.has_error()) co_return checked.error();
  json::array nodes;
  for (const disk* each : engine.disks()) {
    for (std::size_t depth = 0; depth < each->chain().depth(); ++depth) {
      nodes.push_back(describe_node(*each, depth, flat, engine.cache()));
    }
  }
  co_return json::value(std::move(nodes));
}

task<qmp_reply> run_query_block_jobs(engine_control& engine, const json::object& arguments) {
  if (auto checked = take_nothing(arguments); checked.has_error()) co_return checked.error();
  json::array jobs;
  for (const job* each : engine.jobs().jobs()) jobs.push_back(block_job_info(*each));
  co_return json::value(std::move(jobs));
}

task<qmp_reply> run_query_jobs(engine_control& engine, const json::object& arguments) {
  if (auto checked = take_nothing(arguments); checked.has_error()) co_return checked.error();
  json::array jobs;
  for (const job* each : engine.jobs().jobs()) jobs.push_back(job_info(*each));
  co_return json::value(std::move(jobs));
}

task<qmp_reply> run_quit(engine_control& engine, const json::object& arguments) {
  if (auto checked = take_nothing(arguments); checked.has_error()) co_return checked.error();
  engine.quit();
  co_return json::value(json::object{});
}

}  // namespace weir
