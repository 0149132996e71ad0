// The small verbs on a running serve.
#include "cli/control_connection.hpp"
#include "cli/verbs.hpp"

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>

#include <cstdio>
#include <utility>

namespace weir::cli {
namespace {

namespace json = boost::json;

void declare_copy_on_read(option_set& options) {
  declare_control_option(options);
  options.argument("DISK", "The disk; may be left out when there is only one.")
      .optional_argument("on|off", "What is read from backing images is kept in the active one, or not.");
}

outcome<int> run_copy_on_read(const given_options& given) {
  const auto first = given.value("DISK");
  const auto second = given.value("on|off");
  const std::string state = second.value_or(*first);
  if (state != "on" && state != "off") return usage_failure("'" + state + "' is neither on nor off");
  auto server = connect_as_given(given);
  if (server.has_error()) return server.error();
  const auto disk = resolve_disk(**server, second ? first : std::nullopt);
  if (disk.has_error()) return disk.error();
  const auto done = (*server)->execute("weir-copy-on-read", {{"device", *disk}, {"enable", state == "on"}});
  if (done.has_error()) return done.error();
  return exit_done;
}

void declare_domblklist(option_set& options) {
  declare_control_option(options);
  options.flag("json", "Print JSON: a list of {target, source}.");
}

outcome<int> run_domblklist(const given_options& given) {
  auto server = connect_as_given(given);
  if (server.has_error()) return server.error();
  const auto disks = (*server)->execute("weir-domblklist");
  if (disks.has_error()) return disks.error();
  if (given.has("json")) {
    std::puts(json::serialize(*disks).c_str());
    return exit_done;
  }
  std::puts(" Target   Source\n--------------------------------");
  for (const json::value& each : disks->as_array()) {
    std::printf(" %-8s %s\n", each.at("target").as_string().c_str(), each.at("source").as_string().c_str());
  }
  return exit_done;
}

void declare_ctl(option_set& options) {
  declare_control_option(options);
  options.argument("JSON", "The command, e.g. {\"execute\":\"query-jobs\"}.");
}

outcome<int> run_ctl(const given_options& given) {
  json::error_code problem;
  const json::value request = json::parse(*given.value("JSON"), problem);
  if (problem) return usage_failure("JSON: " + problem.message());
  if (!request.is_object()) return usage_failure("JSON: is not an object");
  auto server = connect_as_given(given);
  if (server.has_error()) return server.error();
  const auto reply = (*server)->exchange(request.get_object());
  if (reply.has_error()) return reply.error();
  std::puts(json::serialize(*reply).c_str());
  return reply->contains("return") ? exit_done : exit_failed;
}

}  // namespace

verb copy_on_read_verb() {
  return {.name = "copy-on-read",
          .synopsis = "[-c SOCK] [DISK] on|off",
          .summary = "switch copy-on-read of a disk",
          .description =
              "Switches copy-on-read of a disk of a running weir serve. While it is on, what the guest "
              "reads from backing images is kept in the active image. The image file records nothing of "
              "it.",
          .declare = declare_copy_on_read,
          .run = run_copy_on_read};
}

verb domblklist_verb() {
  return {.name = "domblklist",
          .synopsis = "[-c SOCK] [--json]",
          .summary = "list the disks of a running serve",
          .description = "Lists each disk with the location of its active image.",
          .declare = declare_domblklist,
          .run = run_domblklist};
}

verb ctl_verb() {
  return {.name = "ctl",
          .synopsis = "[-c SOCK] JSON",
          .summary = "send one raw command to a running serve",
          .description = "Sends one QMP command and prints the whole reply. Exit code 1 if it is an error.",
          .declare = declare_ctl,
          .run = run_ctl};
}

}  // namespace weir::cli
