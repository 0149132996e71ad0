#include "cli/chain_map.hpp"

#include "cli/plain_line.hpp"
#include "formats/qcow1/decoded_image.hpp"

#include <boost/json/object.hpp>

#include <algorithm>
#include <array>
#include <cstdio>
#include <utility>

namespace weir::cli {
namespace {

namespace json = boost::json;

map_run run_of(const located_extent& located, std::uint64_t start, std::size_t chain_depth) {
  const extent& found = located.found.extent;
  map_run run;
  run.start = start;
  run.length = found.length;
  run.depth = std::min(located.depth, chain_depth - 1);
  run.present = located.owner != nullptr;
  run.zero = found.kind == extent_kind::zero || found.kind == extent_kind::unallocated;
  run.data = !run.zero;
  run.compressed = found.kind == extent_kind::encoded;
  // A hole of a raw file is where it is read from, unlike a zero cluster.
  const bool is_raw = run.present && located.owner->image->grain() == 1;
  const bool has_place =
      found.kind == extent_kind::data && found.storage_index != qcow1::decoded_storage_index;
  if (has_place || (run.zero && is_raw)) {
    run.offset = found.kind == extent_kind::data ? found.host_offset : start;
  }
  return run;
}

}  // namespace

bool extend_run(map_run& into, const map_run& next) {
  const bool alike = into.depth == next.depth && into.present == next.present && into.zero == next.zero &&
                     into.data == next.data && into.compressed == next.compressed &&
                     into.offset.has_value() == next.offset.has_value();
  if (!alike || (into.offset && *into.offset + into.length != *next.offset)) return false;
  into.length += next.length;
  return true;
}

task<outcome<std::vector<map_run>>> map_chain(const disk& of) {
  std::vector<map_run> runs;
  const chain& layers = of.chain();
  for (std::uint64_t at = 0; at < of.size();) {
    const byte_range rest = range_between(at, of.size());
    const auto located = co_await layers.lookup(rest, depth_range{}, map_effort::status);
    if (located.has_error()) {
      co_return make_failure(located.error(), of.name() + ": offset " + std::to_string(at));
    }
    const map_run run = run_of(*located, at, layers.depth());
    at += run.length;
    if (runs.empty() || !extend_run(runs.back(), run)) runs.push_back(run);
  }
  co_return runs;
}

json::array to_json(const std::vector<map_run>& runs) {
  json::array array;
  for (const map_run& run : runs) {
    json::object entry{{"start", run.start},          {"length", run.length}, {"depth", run.depth},
                       {"present", run.present},      {"zero", run.zero},     {"data", run.data},
                       {"compressed", run.compressed}};
    if (run.offset) entry["offset"] = *run.offset;
    array.push_back(std::move(entry));
  }
  return array;
}

std::string to_table(const std::vector<map_run>& runs, const std::vector<std::string>& files) {
  std::string table = "Offset          Length          Mapped to       File\n";
  for (const map_run& run : runs) {
    if (!run.data) continue;
    std::array<char, 64> columns;
    if (run.offset) {
      std::snprintf(columns.data(), columns.size(), "%#-16llx%#-16llx%#-16llx",
                    static_cast<unsigned long long>(run.start), static_cast<unsigned long long>(run.length),
                    static_cast<unsigned long long>(*run.offset));
    } else {
      std::snprintf(columns.data(), columns.size(), "%#-16llx%#-16llx%-16s",
                    static_cast<unsigned long long>(run.start), static_cast<unsigned long long>(run.length),
                    run.compressed ? "compressed" : "decoded");
    }
    table += columns.data() + plain_line(files[run.depth]) + "\n";
  }
  return table;
}

}  // namespace weir::cli
