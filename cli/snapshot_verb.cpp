#include "cli/image_options.hpp"
#include "cli/snapshot_text.hpp"
#include "cli/verbs.hpp"
#include "engine/block/snapshot_store.hpp"
#include "engine/control/image_info.hpp"

#include <boost/json.hpp>

#include <chrono>
#include <cstdio>
#include <utility>

namespace weir::cli {
namespace {

namespace json = boost::json;

enum class action : std::uint8_t { list, create, apply, remove };

struct snapshot_request {
  std::string image;
  image_settings settings;
  action wanted = action::list;
  std::string snapshot;
  bool as_json = false;
};

snapshot_info made_now(const std::string& name) {
  const auto since = std::chrono::system_clock::now().time_since_epoch();
  const auto ns = std::chrono::duration_cast<std::chrono::nanoseconds>(since).count();
  snapshot_info made;
  made.name = name;
  made.date_s = static_cast<std::uint32_t>(ns / 1'000'000'000);
  made.date_ns = static_cast<std::uint32_t>(ns % 1'000'000'000);
  return made;
}

outcome<void> print(image& opened, bool as_json) {
  const snapshot_store* snapshots = opened.snapshots();
  const json::array list = snapshot_list(opened);
  if (as_json) {
    std::puts(json::serialize(list).c_str());
  } else if (!list.empty()) {
    std::fputs(snapshot_table(list).c_str(), stdout);
  }
  if (snapshots == nullptr || snapshots->damage().empty()) return {};
  return failure{errc::corrupt_image, snapshots->damage()};
}

task<outcome<void>> change(snapshot_store& snapshots, const snapshot_request& request) {
  if (request.wanted == action::create) co_return co_await snapshots.create(made_now(request.snapshot));
  const std::vector<snapshot_info> known = snapshots.list();
  const outcome<snapshot_info> found = find_snapshot(known, request.snapshot, request.image);
  if (found.has_error()) co_return found.error();
  if (request.wanted == action::apply) co_return co_await snapshots.apply(found->id);
  co_return co_await snapshots.remove(found->id);
}

task<outcome<void>> list_or_change(image& opened, const snapshot_request& request) {
  if (request.wanted == action::list) co_return print(opened, request.as_json);
  if (opened.snapshots() == nullptr) {
    co_return make_failure(errc::not_supported, request.image,
                           "a " + std::string(opened.format()) + " image has no internal snapshots");
  }
  co_return co_await change(*opened.snapshots(), request);
}

task<outcome<int>> snapshot(engine_host& host, snapshot_request request) {
  const auto use = [&request](image& opened) { return list_or_change(opened, request); };
  const outcome<void> done = co_await use_image(host, request.image, request.settings, use);
  if (done.has_error()) co_return done.error();
  co_return exit_done;
}

void declare(option_set& options) {
  declare_image_options(options);
  options.flag("list,l", "List the snapshots (the default).")
      .value("create,c", "NAME", "Make a snapshot of the disk as it is now.")
      .value("apply,a", "NAME|ID", "Go back to a snapshot. What the disk holds now is lost.")
      .value("delete,d", "NAME|ID", "Delete a snapshot and give its space back.")
      .flag("json", "Print the list as JSON, with the keys of qemu-img info.")
      .argument("IMAGE", "The image. Nobody else may be using it, but for -l with -U.");
}

outcome<int> run(const given_options& given) {
  snapshot_request request;
  auto settings = read_image_options(given);
  if (settings.has_error()) return settings.error();
  request.image = *given.value("IMAGE");
  request.settings = *settings;
  request.settings.bitmaps = bitmap_care::leave;
  request.as_json = given.has("json");
  int actions = given.has("list") ? 1 : 0;
  constexpr std::pair<const char*, action> changes[] = {
      {"create", action::create}, {"apply", action::apply}, {"delete", action::remove}};
  for (const auto& [name, wanted] : changes) {
    const std::vector<std::string> values = given.values(name);
    if (values.empty()) continue;
    actions += static_cast<int>(values.size());
    request.wanted = wanted;
    request.snapshot = values.front();
  }
  if (actions > 1) return usage_failure("one of -l, -c, -a and -d at a time");
  request.settings.writable = request.wanted != action::list;
  auto host = engine_host::create();
  if (host.has_error()) return host.error();
  return (*host)->run(snapshot(**host, std::move(request)));
}

}  // namespace

verb snapshot_verb() {
  return {
      .name = "snapshot",
      .synopsis = "[-f FMT] [-U] [-l [--json] | -c NAME | -a NAME|ID | -d NAME|ID] IMAGE",
      .summary = "list, make, apply or delete internal snapshots",
      .description =
          "An internal snapshot is an earlier state of the disk that is kept in the same qcow2 file; what "
          "did "
          "not change since is stored once.\n\nEach change is whole or not at all, also over a power loss. "
          "Making a snapshot flushes the image first. A snapshot of another size than the disk brings its "
          "size "
          "back when it is applied.\n\nTo read a snapshot: --snapshot of convert, map, compare and info.",
      .declare = declare,
      .run = run};
}

}  // namespace weir::cli
