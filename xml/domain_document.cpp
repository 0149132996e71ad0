#include "xml/domain_document.hpp"

#include "xml/chain_writer.hpp"
#include "xml/disk_reader.hpp"
#include "xml/old_spellings.hpp"
#include "xml/text_scan.hpp"

#include <pugixml.hpp>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <map>
#include <memory>
#include <set>
#include <sstream>

namespace weir {
namespace {

using std::string;

constexpr unsigned parse_flags = pugi::parse_full | pugi::parse_ws_pcdata;

/// NAME:LINE:COLUMN of an offset; columns count bytes, from 1.
string position(std::string_view name, std::string_view text, std::ptrdiff_t offset) {
  const std::string_view before =
      text.substr(0, static_cast<std::size_t>(std::max<std::ptrdiff_t>(offset, 0)));
  const auto line = 1 + std::ranges::count(before, '\n');
  const auto column = before.size() - (before.rfind('\n') + 1) + 1;
  return string(name) + ":" + std::to_string(line) + ":" + std::to_string(column);
}

failure at_offset(std::string_view name, std::string_view text, const xml::problem& wrong) {
  const string subject = wrong.offset < 0 ? string(name) : position(name, text, wrong.offset);
  return make_failure(errc::unsupported_feature, subject, wrong.what);
}

/// What the parser would misread rather than refuse. Empty: nothing.
string unreadable(std::string_view text) {
  if (text.size() > xml::max_document_bytes) return "the document is larger than 16 MiB";
  if (text.starts_with("\xFF\xFE") || text.starts_with("\xFE\xFF")) return "the document is not UTF-8";
  if (text.find('\0') != std::string_view::npos) return "the document holds a zero byte";
  return {};
}

/// Only UTF-8 may be declared.
bool declares_other_encoding(const pugi::xml_document& document) {
  for (const pugi::xml_node node : document.children()) {
    if (node.type() != pugi::node_declaration) continue;
    string encoding = node.attribute("encoding").as_string("utf-8");
    std::ranges::transform(encoding, encoding.begin(),
                           [](char c) { return c >= 'A' && c <= 'Z' ? char(c + 32) : c; });
    return encoding != "utf-8" && encoding != "us-ascii";
  }
  return false;
}

/// The disks, or a problem if the document is of no known kind.
std::vector<pugi::xml_node> find_disks(const pugi::xml_document& document, xml::problem_log& log) {
  pugi::xml_node root = document.document_element();
  const string name = root.name();
  std::vector<pugi::xml_node> disks;
  for (const pugi::xml_node other : document.children()) {
    if (other.type() == pugi::node_element && other != root) log.add(other, "a second root element");
  }
  if (name == "disk") return {root};
  if (name == "domstatus" || name == "domainsnapshot" || name == "domaincheckpoint")
    root = root.child("domain");
  else if (name != "domain")
    log.add(root, "<" + name + "> is not a <domain> or <disk>");
  for (const pugi::xml_node disk : root.child("devices").children("disk")) disks.push_back(disk);
  return disks;
}

outcome<string> read_file(const string& path) {
  const std::unique_ptr<FILE, int (*)(FILE*)> file(std::fopen(path.c_str(), "rbe"), std::fclose);
  if (!file) return make_failure(errno_code(errno), path);
  string text;
  std::array<char, 64 * 1024> part;
  while (text.size() <= xml::max_document_bytes) {
    const std::size_t count = std::fread(part.data(), 1, part.size(), file.get());
    text.append(part.data(), count);
    if (count == part.size()) continue;
    if (std::ferror(file.get()) != 0) return make_failure(errno_code(errno), path);
    break;
  }
  return text;
}

/// What was learned from headers is not part of a description.
bool is_described_alike(const layer_model& a, const layer_model& b) {
  return a.index == b.index && a.format == b.format && a.source == b.source && a.slice == b.slice;
}

string print(pugi::xml_node node, bool single_quotes) {
  std::ostringstream out;
  const unsigned flags = pugi::format_raw | (single_quotes ? pugi::format_attribute_single_quote : 0U);
  node.print(out, "", flags, pugi::encoding_utf8);
  return std::move(out).str();
}

}  // namespace

struct domain_document::content {
  struct disk_entry {
    pugi::xml_node node;
    std::size_t begin = 0;  ///< of the element in `text`
    std::size_t end = 0;
    bool touched = false;
  };

  string name;
  string text;
  pugi::xml_document tree;
  std::vector<disk_entry> entries;
  std::vector<disk_model> models;  ///< of each entry

  std::optional<failure> parse();
  void read_again(std::size_t position);
  string write_disk(const disk_entry& entry, xml_view view) const;

 private:
  void read_disks(const std::map<std::size_t, std::size_t>& ends, xml::problem_log& log);
};

std::optional<failure> domain_document::content::parse() {
  if (const string why = unreadable(text); !why.empty())
    return make_failure(errc::unsupported_feature, name, why);
  const pugi::xml_parse_result parsed =
      tree.load_buffer(text.data(), text.size(), parse_flags, pugi::encoding_utf8);
  if (!parsed) return at_offset(name, text, {parsed.offset, parsed.description()});
  if (declares_other_encoding(tree))
    return make_failure(errc::unsupported_feature, name, "the document is not UTF-8");
  const xml::text_scan scan = xml::scan_text(text);
  if (scan.wrong) return at_offset(name, text, *scan.wrong);
  xml::problem_log log;
  read_disks(scan.disk_ends, log);
  if (log.first()) return at_offset(name, text, *log.first());
  return std::nullopt;
}

void domain_document::content::read_disks(const std::map<std::size_t, std::size_t>& ends,
                                          xml::problem_log& log) {
  std::set<string> targets;
  const bool bare = string(tree.document_element().name()) == "disk";
  for (const pugi::xml_node node : find_disks(tree, log)) {
    disk_model model = xml::read_disk_element(node, log).model;
    if (model.target.empty() && !bare) log.add(node, "<disk> without a <target dev=>");
    if (!targets.insert(model.target).second) log.add(node, "a second disk '" + model.target + "'");
    const auto begin = static_cast<std::size_t>(node.offset_debug() - 1);
    const auto end = ends.find(begin);
    if (end == ends.end()) return log.add(node, "the element's end was not found");
    entries.push_back({.node = node, .begin = begin, .end = end->second});
    models.push_back(std::move(model));
  }
}

void domain_document::content::read_again(std::size_t position) {
  xml::problem_log ignored;
  entries[position].touched = true;
  models[position] = xml::read_disk_element(entries[position].node, ignored).model;
}

string domain_document::content::write_disk(const disk_entry& entry, xml_view view) const {
  const std::string_view before = std::string_view(text).substr(entry.begin, entry.end - entry.begin);
  const bool single_quotes = before.find('\'') <= before.find('"');
  if (view == xml_view::inactive) {
    pugi::xml_document copy;
    const pugi::xml_node disk = copy.append_copy(entry.node);
    if (xml::strip_live_parts(disk)) return print(disk, single_quotes);
  }
  return entry.touched ? print(entry.node, single_quotes) : string(before);
}

domain_document::domain_document(std::unique_ptr<content> loaded) noexcept : content_(std::move(loaded)) {}
domain_document::domain_document(domain_document&&) noexcept = default;
domain_document& domain_document::operator=(domain_document&&) noexcept = default;
domain_document::~domain_document() = default;

outcome<domain_document> domain_document::parse(std::string_view text, std::string_view name) {
  auto loaded = std::make_unique<content>();
  loaded->name = name;
  loaded->text = text;
  if (std::optional<failure> wrong = loaded->parse()) return std::move(*wrong);
  return domain_document(std::move(loaded));
}

outcome<domain_document> domain_document::load(const string& path) {
  const outcome<string> text = read_file(path);
  if (!text) return text.error();
  return parse(*text, path);
}

bool domain_document::looks_like_xml(std::string_view head) noexcept {
  if (head.starts_with("\xEF\xBB\xBF")) head.remove_prefix(3);
  head.remove_prefix(std::min(head.find_first_not_of(" \t\r\n"), head.size()));
  constexpr std::array<std::string_view, 4> starts{"<?xml", "<!--", "<dom", "<disk"};
  return std::ranges::any_of(starts, [&](std::string_view start) { return head.starts_with(start); });
}

const string& domain_document::name() const noexcept {
  return content_->name;
}
const std::vector<disk_model>& domain_document::disks() const noexcept {
  return content_->models;
}

std::optional<std::size_t> domain_document::find_disk(std::string_view target_or_path) const {
  const std::vector<disk_model>& models = content_->models;
  const auto named = std::ranges::find(models, target_or_path, &disk_model::target);
  if (named != models.end() && !target_or_path.empty())
    return static_cast<std::size_t>(named - models.begin());
  std::optional<std::size_t> found;
  for (std::size_t i = 0; i < models.size(); ++i) {
    if (models[i].layers.empty() || describe(models[i].layers[0].source) != target_or_path) continue;
    if (found) return std::nullopt;
    found = i;
  }
  return found;
}

void domain_document::set_chain(std::size_t position, const std::vector<layer_model>& layers,
                                bool terminated) {
  const disk_model& now = content_->models[position];
  const bool modern = !xml::has_old_chain(content_->entries[position].node);
  if (modern && now.terminated == terminated && std::ranges::equal(now.layers, layers, is_described_alike))
    return;
  xml::write_chain(content_->entries[position].node, layers, terminated);
  content_->read_again(position);
}

void domain_document::set_mirror(std::size_t position, const std::optional<mirror_model>& mirror) {
  xml::write_mirror(content_->entries[position].node, mirror);
  content_->read_again(position);
}

string domain_document::write(xml_view view) const {
  string out;
  std::size_t at = 0;
  for (const content::disk_entry& entry : content_->entries) {
    out.append(content_->text, at, entry.begin - at).append(content_->write_disk(entry, view));
    at = entry.end;
  }
  return out.append(content_->text, at);
}

}  // namespace weir
