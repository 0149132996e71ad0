// Objects at run time: TLS credentials of the NBD server.
#include "engine/control/arguments.hpp"
#include "engine/control/command_table.hpp"

#include <array>
#include <utility>

namespace weir {
namespace {

namespace json = boost::json;

constexpr std::array<std::string_view, 2> object_types{"tls-creds-x509", "tls-creds-psk"};
constexpr std::array<std::string_view, 2> endpoints{"client", "server"};

qmp_reply reply_of(const outcome<void>& done) {
  if (done.has_error()) return generic_error(done.error());
  return json::value(json::object{});
}

}  // namespace

task<qmp_reply> run_object_add(engine_control& engine, const json::object& arguments) {
  argument_reader reader(arguments);
  credentials_settings settings;
  settings.pre_shared_keys = reader.word("qom-type", object_types) == 1;
  settings.id = reader.string("id");
  settings.directory = reader.string("dir");
  const bool is_server = reader.optional_word("endpoint", endpoints).value_or(0) == 1;
  const bool verify = reader.optional_boolean("verify-peer").value_or(true);
  if (auto checked = reader.finish(); checked.has_error()) co_return checked.error();
  if (!is_well_formed_id(settings.id)) co_return generic_error("Parameter 'id' expects an identifier");
  if (!is_server) co_return generic_error("Expected TLS credentials for a server endpoint");
  if (!verify) co_return generic_error("Clients are always verified here: leave verify-peer on");
  const outcome<void> added = engine.exports().add_credentials(std::move(settings));
  co_return reply_of(added);
}

task<qmp_reply> run_object_del(engine_control& engine, const json::object& arguments) {
  argument_reader reader(arguments);
  const std::string id = reader.string("id");
  if (auto checked = reader.finish(); checked.has_error()) co_return checked.error();
  const outcome<void> removed = engine.exports().remove_credentials(id);
  co_return reply_of(removed);
}

}  // namespace weir
