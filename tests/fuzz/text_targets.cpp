// Compressed units, domain XML, backing names and QMP: pure functions of bytes.
#include "engine/block/backing_name.hpp"
#include "engine/control/qmp_session.hpp"
#include "formats/codec.hpp"
#include "tests/fuzz/fuzz_targets.hpp"
#include "xml/domain_document.hpp"

#include <boost/json/serialize.hpp>

#include <algorithm>
#include <string>
#include <vector>

namespace weir::fuzz {
namespace {

using bytes = std::vector<std::byte>;
using decoder = result<void> (*)(std::span<const std::byte>, std::span<std::byte>);

std::string_view text_of(input_bytes input) {
  return {reinterpret_cast<const char*>(input.data()), input.size()};
}

/// The first byte is log2 of the decoded length: 9 to 21, as clusters are.
void decode(input_bytes input, decoder codec) {
  if (input.empty()) return;
  const unsigned bits = 9 + std::to_integer<unsigned>(input.front()) % 13;
  // Of exactly this size on the heap, so that a sanitizer sees a read beyond it.
  const bytes encoded(input.begin() + 1, input.end());
  bytes once(std::size_t{1} << bits, std::byte{0xaa});
  const result<void> done = codec(encoded, once);
  if (!done) return;
  bytes again(once.size(), std::byte{0x55});
  check(codec(encoded, again).has_value() && again == once, "a unit decodes to one content");
}

void edit(domain_document& document, std::string_view original) {
  check(document.write() == original, "an untouched document is written back as it was");
  for (std::size_t position = 0; position < document.disks().size(); ++position) {
    const disk_model model = document.disks()[position];
    static_cast<void>(document.find_disk(model.target));
    if (model.layers.empty()) continue;
    std::vector<layer_model> layers = model.layers;
    if (layers.size() > 1) layers.erase(layers.begin() + 1);
    document.set_chain(position, layers, true);
    document.set_mirror(position, std::nullopt);
  }
  static_cast<void>(document.write(xml_view::inactive));
  const std::string written = document.write();
  const auto reread = domain_document::parse(written, "written");
  check(reread.has_value(), "what was written can be read");
  check(reread->disks().size() == document.disks().size(), "no disk is lost");
}

void parse_as_image(std::string_view text) {
  const auto named = parse_image_name(text);
  if (named) check(!describe(named->source).empty() || text.empty(), "what is named can be described");
}

}  // namespace

void run_deflate(input_bytes input) {
  decode(input, &decode_deflate);
}

void run_zstd(input_bytes input) {
  decode(input, &decode_zstd);
}

void run_domain_xml(input_bytes input) {
  const std::string_view text = text_of(input);
  static_cast<void>(domain_document::looks_like_xml(text));
  auto document = domain_document::parse(text, "domain");
  if (document) edit(*document, text);
}

void run_backing_name(input_bytes input) {
  const std::string_view text = text_of(input);
  layer_source parent;
  parent.path = "/images/overlay";
  const auto parsed = parse_backing_string(text, parent);
  if (parsed) {
    const layer_source& source = parsed->source;
    const bool descriptor = source.type == "file" && source.path.starts_with("fd:");
    check(!descriptor && source.fd_group.empty(), "a header names no descriptor");
    static_cast<void>(describe(source));
  }
  parse_as_image(text);
  static_cast<void>(is_relative_name(text));
  static_cast<void>(join_relative({std::string(text), std::string(text)}));
}

void run_qmp(input_bytes input) {
  qmp_session session;
  // In pieces, as a socket delivers them; the first byte says how long.
  if (input.empty()) return;
  const std::size_t piece = 1 + std::to_integer<std::size_t>(input.front());
  std::string_view rest = text_of(input.subspan(1));
  while (!rest.empty()) {
    for (const qmp_request& each : session.feed(rest.substr(0, piece))) {
      const auto verdict = session.admit(each);
      check(session.negotiated() || verdict.refusal || verdict.answered, "nothing runs before negotiation");
      qmp_reply reply;
      if (verdict.refusal) reply = *verdict.refusal;
      const std::string line = qmp_session::reply_line(each.id, reply);
      check(std::ranges::count(line, '\n') <= 1, "a reply is one line");
    }
    rest.remove_prefix(std::min(piece, rest.size()));
  }
}

}  // namespace weir::fuzz
