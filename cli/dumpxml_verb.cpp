#include "cli/control_connection.hpp"
#include "cli/described_disks.hpp"
#include "cli/verbs.hpp"

#include <algorithm>
#include <cstdio>
#include <utility>

namespace weir::cli {
namespace {

void print_text(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
}

bool formats_known(const std::vector<layer_model>& layers) {
  return std::ranges::none_of(layers, [](const layer_model& layer) { return layer.format.empty(); });
}

/// Writes what was found into the document, and mirrors in the modern spelling.
void fill_in(domain_document& document, const std::vector<disk_model>& found) {
  for (std::size_t position = 0; position < found.size(); ++position) {
    const disk_model& disk = found[position];
    if (!disk.layers.empty()) document.set_chain(position, without_invented_indexes(disk.layers), true);
    const auto mirror = document.disks()[position].mirror;
    if (mirror && formats_known(mirror->layers)) document.set_mirror(position, mirror);
  }
}

task<outcome<int>> resolve(engine_host& host, described_disks described, image_settings settings,
                           xml_view view) {
  std::vector<disk_model> found = described.disks;
  const outcome<void> completed = co_await complete_disks(host, found, settings);
  if (completed.has_error()) co_return completed.error();
  fill_in(*described.document, found);
  print_text(described.document->write(view));
  co_return exit_done;
}

/// The live document of a running serve.
outcome<int> dump_live(const given_options& given, xml_view view) {
  if (given.has("resolve")) return usage_failure("--resolve is for a file: live XML names the whole chain");
  auto server = connect_as_given(given);
  if (server.has_error()) return server.error();
  const auto answer = (*server)->execute("weir-dumpxml");
  if (answer.has_error()) return answer.error();
  auto document = domain_document::parse(answer->at("xml").as_string(), "live XML");
  if (document.has_error()) return document.error();
  print_text(document->write(view));
  return exit_done;
}

void declare(option_set& options) {
  declare_control_option(options);
  options.flag("resolve", "Open the images and fill in the chain that is found, in libvirt's modern form.")
      .flag("inactive", "Leave out what configurations do not carry: indexes and mirrors.")
      .flag("allow-remote-backing", "Open network locations that are named in image headers.")
      .optional_argument("DOMAIN.xml", "The domain XML file; without it, the live XML of a running serve.");
}

outcome<int> run(const given_options& given) {
  const xml_view view = given.has("inactive") ? xml_view::inactive : xml_view::as_is;
  const auto path = given.value("DOMAIN.xml");
  if (!path) return dump_live(given, view);
  if (given.has("control")) return usage_failure("a control socket and a file exclude each other");
  auto document = domain_document::load(*path);
  if (document.has_error()) return document.error();
  if (!given.has("resolve")) {
    print_text(document->write(view));
    return exit_done;
  }
  image_settings settings;
  settings.allow_remote_backing = given.has("allow-remote-backing");
  settings.storage.locking = image_locking::share;  // only headers are read
  described_disks described;
  described.disks = document->disks();
  described.document.emplace(std::move(*document));
  auto host = engine_host::create();
  if (host.has_error()) return host.error();
  (*host)->let_signals_kill();
  return (*host)->run(resolve(**host, std::move(described), settings, view));
}

}  // namespace

verb dumpxml_verb() {
  return {.name = "dumpxml",
          .synopsis = "[--inactive] {[--resolve] DOMAIN.xml | -c SOCK}",
          .summary = "write domain XML back, with the backing chains filled in",
          .description =
              "Parses the document and writes it back; what weir does not know stays untouched.\n\n"
              "With --resolve the chain of each disk is detected and written as <backingStore> elements; "
              "spellings "
              "older than that are converted.\n\n"
              "With -c the live XML of a running serve is shown: its chains as they are now, and mirrors.",
          .declare = declare,
          .run = run};
}

}  // namespace weir::cli
