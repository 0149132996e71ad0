// The NBD server and its exports at run time.
#include "engine/control/arguments.hpp"
#include "engine/control/command_table.hpp"

#include <boost/json/array.hpp>

#include <array>
#include <utility>

namespace weir {
namespace {

namespace json = boost::json;

qmp_reply reply_of(const outcome<void>& done) {
  if (done.has_error()) return generic_error(done.error());
  return json::value(json::object{});
}

constexpr std::array<std::string_view, 2> address_types{"inet", "unix"};
constexpr std::array<std::string_view, 1> export_types{"nbd"};
constexpr std::array<std::string_view, 2> remove_modes{"safe", "hard"};

/// SocketAddressLegacy: {"type": …, "data": {…}}.
qmp_result<listen_address> decode_address(const json::object& address) {
  argument_reader outer(address, "addr.");
  const bool is_unix = outer.word("type", address_types) == 1;
  const json::object& data = outer.object("data");
  if (auto checked = outer.finish(); checked.has_error()) return checked.error();
  argument_reader inner(data, "addr.data.");
  listen_address where;
  if (is_unix) {
    where.path = inner.string("path");
  } else {
    where.host = inner.string("host");
    where.port = inner.string("port");
  }
  if (auto checked = inner.finish(); checked.has_error()) return checked.error();
  return where;
}

}  // namespace

task<qmp_reply> run_nbd_server_start(engine_control& engine, const json::object& arguments) {
  argument_reader reader(arguments);
  const json::object& address = reader.object("addr");
  reader.optional_integer("handshake-max-seconds");
  if (reader.optional_string("tls-creds")) reader.fail(generic_error("TLS is not supported by this build"));
  reader.optional_string("tls-authz");
  reader.optional_integer("max-connections");
  if (!reader.failed()) {
    const auto where = decode_address(address);
    if (where.has_error()) co_return where.error();
    if (auto checked = reader.finish(); checked.has_error()) co_return checked.error();
    const outcome<void> started = engine.exports().start_server(*where);
    co_return reply_of(started);
  }
  co_return reader.finish().error();
}

task<qmp_reply> run_nbd_server_stop(engine_control& engine, const json::object& arguments) {
  if (auto checked = argument_reader(arguments).finish(); checked.has_error()) co_return checked.error();
  const outcome<void> stopped = co_await engine.exports().stop_server();
  co_return reply_of(stopped);
}

task<qmp_reply> run_block_export_add(engine_control& engine, const json::object& arguments) {
  argument_reader reader(arguments);
  export_settings settings;
  reader.word("type", export_types);
  settings.id = reader.string("id");
  settings.node = reader.string("node-name");
  settings.name = reader.optional_string("name").value_or(settings.node);
  settings.description = reader.optional_string("description").value_or(std::string{});
  settings.writable = reader.optional_boolean("writable").value_or(false);
  reader.optional_boolean("writethrough");
  if (auto checked = reader.finish(); checked.has_error()) co_return checked.error();
  if (!is_well_formed_id(settings.id)) co_return generic_error("Invalid block export id");
  for (const export_settings& each : engine.exports().list()) {
    if (each.id == settings.id)
      co_return generic_error("Block export id '" + each.id + "' is already in use");
  }
  const disk* const target = engine.find_disk(settings.node);
  if (target == nullptr) {
    co_return generic_error("Cannot find device='' nor node-name='" + settings.node + "'");
  }
  if (settings.writable && target->read_only())
    co_return generic_error("Cannot export read-only node as writable");
  const outcome<void> added = engine.exports().add(std::move(settings));
  co_return reply_of(added);
}

task<qmp_reply> run_block_export_del(engine_control& engine, const json::object& arguments) {
  argument_reader reader(arguments);
  const std::string id = reader.string("id");
  const bool force = reader.optional_word("mode", remove_modes).value_or(0) == 1;
  if (auto checked = reader.finish(); checked.has_error()) co_return checked.error();
  const outcome<void> removed = co_await engine.exports().remove(id, force);
  co_return reply_of(removed);
}

task<qmp_reply> run_query_block_exports(engine_control& engine, const json::object& arguments) {
  if (auto checked = argument_reader(arguments).finish(); checked.has_error()) co_return checked.error();
  json::array exports;
  for (const export_settings& each : engine.exports().list()) {
    exports.push_back(
        json::object{{"node-name", each.node}, {"shutting-down", false}, {"type", "nbd"}, {"id", each.id}});
  }
  co_return json::value(std::move(exports));
}

}  // namespace weir
