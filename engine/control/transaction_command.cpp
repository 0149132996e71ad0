// transaction: several actions at one instant, all of them or none.
//
// Targets of backups are opened first, which takes time. Then every disk that is named is drained, the actions are
// carried out in their order, and requests go on: whatever the actions look at is of that one instant. If one fails, the
// bitmaps are as they were and no backup has begun.
#include "engine/block/bitmap_store.hpp"
#include "engine/control/arguments.hpp"
#include "engine/control/backup_arguments.hpp"
#include "engine/control/command_table.hpp"

#include <boost/json/array.hpp>

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace weir {
namespace {

namespace json = boost::json;

constexpr std::array<std::string_view, 5> bitmap_actions{
    "block-dirty-bitmap-add", "block-dirty-bitmap-clear", "block-dirty-bitmap-disable",
    "block-dirty-bitmap-enable", "block-dirty-bitmap-merge"};
constexpr std::array<std::string_view, 2> completion_modes{"individual", "grouped"};

struct action {
  std::string type;
  json::object data;
  disk* target = nullptr;
  std::optional<prepared_backup> backup = std::nullopt;
};

qmp_result<action> decode_action(engine_control& engine, const json::value& given) {
  if (!given.is_object()) return generic_error("Invalid parameter type for 'actions', expected: object");
  argument_reader reader(given.get_object(), "actions.");
  action wanted;
  wanted.type = reader.string("type");
  wanted.data = reader.object("data");
  if (auto checked = reader.finish(); checked.has_error()) return checked.error();
  if (wanted.type == "abort") return wanted;
  const bool is_backup = wanted.type == "drive-backup" || wanted.type == "blockdev-backup";
  const bool is_known = is_backup || std::ranges::find(bitmap_actions, wanted.type) != bitmap_actions.end();
  if (!is_known) {
    return generic_error("Parameter 'actions.type' does not accept value '" + wanted.type + "'");
  }
  const json::value* const node = wanted.data.if_contains(is_backup ? "device" : "node");
  const std::string name = node != nullptr && node->is_string() ? std::string(node->get_string()) : "";
  wanted.target = engine.find_disk(name);
  if (wanted.target == nullptr) {
    return generic_error("Cannot find device='" + name + "' nor node-name='" + name + "'");
  }
  return wanted;
}

qmp_result<std::vector<action>> decode(engine_control& engine, const json::object& arguments) {
  argument_reader reader(arguments);
  const json::array* const given = reader.optional_array("actions");
  std::size_t mode = 0;
  if (arguments.contains("properties")) {
    argument_reader properties(reader.object("properties"), "properties.");
    mode = properties.optional_word("completion-mode", completion_modes).value_or(0);
    if (auto checked = properties.finish(); checked.has_error()) return checked.error();
  }
  if (auto checked = reader.finish(); checked.has_error()) return checked.error();
  if (given == nullptr) return generic_error("Parameter 'actions' is missing");
  if (mode != 0) return generic_error("Completion mode 'grouped' not supported");
  std::vector<action> actions;
  for (const json::value& each : *given) {
    auto decoded = decode_action(engine, each);
    if (decoded.has_error()) return decoded.error();
    actions.push_back(std::move(*decoded));
  }
  return actions;
}

/// The disks of the actions, each once.
std::vector<disk*> disks_of(const std::vector<action>& actions) {
  std::vector<disk*> disks;
  for (const action& each : actions) {
    if (each.target != nullptr && std::ranges::find(disks, each.target) == disks.end())
      disks.push_back(each.target);
  }
  return disks;
}

task<qmp_result<void>> prepare(engine_control& engine, std::vector<action>& actions) {
  for (action& each : actions) {
    if (each.type != "drive-backup" && each.type != "blockdev-backup") continue;
    const auto command = each.type == "drive-backup" ? backup_command::drive : backup_command::blockdev;
    auto request = decode_backup(engine, each.data, command);
    if (request.has_error()) co_return request.error();
    auto prepared = co_await engine.prepare_backup(std::move(*request));
    if (prepared.has_error()) co_return generic_error(prepared.error());
    each.backup.emplace(std::move(*prepared));
  }
  co_return qmp_result<void>{};
}

/// Precondition: the disks are drained.
task<qmp_result<void>> carry_out(engine_control& engine, std::vector<action>& actions) {
  for (action& each : actions) {
    if (each.type == "abort") co_return generic_error("Transaction aborted using Abort action");
    if (each.backup) {
      each.backup->job->begin();
      continue;
    }
    const qmp_reply reply = co_await find_command(each.type)(engine, each.data);
    if (reply.has_error()) co_return reply.error();
  }
  co_return qmp_result<void>{};
}

/// All at one instant; on failure nothing has happened.
task<qmp_result<void>> carry_out_together(engine_control& engine, std::vector<action>& actions) {
  const std::vector<disk*> disks = disks_of(actions);
  std::vector<std::pair<bitmap_store*, bitmap_store::saved_state>> before;
  for (disk* each : disks) {
    co_await each->drain();
    bitmap_store* const kept = each->chain().active().image->bitmaps();
    if (kept != nullptr) before.emplace_back(kept, kept->save());
  }
  auto done = co_await carry_out(engine, actions);
  if (done.has_error()) {
    for (auto& [kept, state] : before) kept->restore(std::move(state));
    for (const action& each : actions) {
      if (each.backup) each.backup->job->undo_begin();
    }
  }
  for (disk* each : disks) each->resume();
  co_return done;
}

}  // namespace

task<qmp_reply> run_transaction(engine_control& engine, const json::object& arguments) {
  auto decoded = decode(engine, arguments);
  if (decoded.has_error()) co_return decoded.error();
  std::vector<action>& actions = *decoded;
  auto done = co_await prepare(engine, actions);
  if (!done.has_error()) done = co_await carry_out_together(engine, actions);
  for (action& each : actions) {
    if (!each.backup) continue;
    each.backup->reserved->end();
    if (done.has_error()) {
      co_await each.backup->job->give_up();
    } else if (auto started = engine.jobs().start(std::move(each.backup->job)); started.has_error()) {
      co_return generic_error(started.error());
    }
  }
  if (done.has_error()) co_return done.error();
  co_return json::value(json::object{});
}

}  // namespace weir
