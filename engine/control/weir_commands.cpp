// Commands QEMU has not: what the verbs on a running serve need beside QMP.
#include "engine/control/arguments.hpp"
#include "engine/control/command_table.hpp"

#include <boost/json/array.hpp>

#include <utility>

namespace weir {

namespace json = boost::json;

/// {"device": NAME, "enable": BOOL}
task<qmp_reply> run_weir_copy_on_read(engine_control& engine, const json::object& arguments) {
  argument_reader reader(arguments);
  const std::string name = reader.string("device");
  const bool enable = reader.boolean("enable");
  if (auto checked = reader.finish(); checked.has_error()) co_return checked.error();
  disk* const target = engine.find_disk(name);
  if (target == nullptr) {
    co_return qmp_error{"DeviceNotFound", "no disk '" + name + "' is served here"};
  }
  if (enable && target->read_only()) {
    co_return generic_error("disk '" + name + "' is read-only: copy-on-read needs a writable active layer");
  }
  target->set_copy_on_read(enable);
  co_return json::value(json::object{});
}

/// [{"target": NAME, "source": LOCATION of the active layer}]
task<qmp_reply> run_weir_domblklist(engine_control& engine, const json::object& arguments) {
  if (auto checked = argument_reader(arguments).finish(); checked.has_error()) co_return checked.error();
  json::array disks;
  for (const disk* each : engine.disks()) {
    disks.push_back(
        json::object{{"target", each->name()}, {"source", describe(each->chain().active().model.source)}});
  }
  co_return json::value(std::move(disks));
}

/// {"xml": TEXT}
task<qmp_reply> run_weir_dumpxml(engine_control& engine, const json::object& arguments) {
  if (auto checked = argument_reader(arguments).finish(); checked.has_error()) co_return checked.error();
  const outcome<std::string> text = engine.live_xml();
  if (text.has_error()) co_return generic_error(text.error());
  co_return json::value(json::object{{"xml", *text}});
}

}  // namespace weir
