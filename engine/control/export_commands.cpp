// The NBD server and its exports at run time.
#include "engine/control/arguments.hpp"
#include "engine/control/command_table.hpp"

#include <boost/json/array.hpp>

#include <array>
#include <cstdint>
#include <limits>
#include <optional>
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
qmp_result<nbd::listen_address> decode_address(const json::object& address) {
  argument_reader outer(address, "addr.");
  const bool is_unix = outer.word("type", address_types) == 1;
  const json::object& data = outer.object("data");
  if (auto checked = outer.finish(); checked.has_error()) return checked.error();
  argument_reader inner(data, "addr.data.");
  nbd::listen_address where;
  if (is_unix) {
    nbd::unix_address local{inner.string("path")};
    if (!inner.failed() && local.path.empty()) inner.fail(generic_error("UNIX socket path is required"));
    where = std::move(local);
  } else {
    nbd::tcp_address tcp;
    tcp.host = inner.string("host");
    tcp.port = inner.string("port");
    where = std::move(tcp);
  }
  if (auto checked = inner.finish(); checked.has_error()) return checked.error();
  return where;
}

/// A number that QEMU's schema calls uint32.
void read_u32(argument_reader& reader, std::string_view name, std::uint32_t& into) {
  const std::optional<std::int64_t> given = reader.optional_integer(name);
  if (!given) return;
  if (*given < 0 || *given > std::numeric_limits<std::uint32_t>::max()) {
    reader.fail(generic_error("Parameter '" + std::string(name) + "' expects uint32_t"));
    return;
  }
  into = static_cast<std::uint32_t>(*given);
}

/// BlockDirtyBitmapOrStr: "NAME" or {"node": NODE, "name": NAME}.
void read_bitmaps(argument_reader& reader, export_settings& into) {
  const json::array* const given = reader.optional_array("bitmaps");
  if (given == nullptr) return;
  for (const json::value& each : *given) {
    if (each.is_string()) {
      into.bitmaps.emplace_back(each.get_string());
      continue;
    }
    if (!each.is_object())
      return reader.fail(generic_error("Invalid parameter type for 'bitmaps', expected: string"));
    argument_reader inner(each.get_object(), "bitmaps.");
    const std::string node = inner.string("node");
    into.bitmaps.push_back(inner.string("name"));
    if (auto checked = inner.finish(); checked.has_error()) return reader.fail(checked.error());
    if (node != into.node)
      return reader.fail(generic_error("Bitmap '" + into.bitmaps.back() + "' is not found"));
  }
}

}  // namespace

task<qmp_reply> run_nbd_server_start(engine_control& engine, const json::object& arguments) {
  argument_reader reader(arguments);
  nbd_server_request asked;
  const json::object& address = reader.object("addr");
  read_u32(reader, "handshake-max-seconds", asked.handshake_timeout_s);
  asked.tls_credentials = reader.optional_string("tls-creds").value_or(std::string{});
  if (reader.optional_string("tls-authz")) reader.fail(generic_error("tls-authz objects are not supported"));
  read_u32(reader, "max-connections", asked.most_connections);
  if (reader.failed()) co_return reader.finish().error();
  auto where = decode_address(address);
  if (where.has_error()) co_return where.error();
  if (auto checked = reader.finish(); checked.has_error()) co_return checked.error();
  asked.where = std::move(*where);
  const outcome<void> started = engine.exports().start_server(std::move(asked));
  co_return reply_of(started);
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
  read_bitmaps(reader, settings);
  // Shown to whoever asks, see engine/nbd/meta_context.hpp.
  reader.optional_boolean("allocation-depth");
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
