#include "cli/library_compare.hpp"

#include "formats/qcow1/library_storage.hpp"
#include "formats/qcow1/reader_error.hpp"

#include <algorithm>
#include <span>
#include <string_view>
#include <utility>

namespace weir::cli {
namespace {

constexpr std::uint64_t step_bytes = 1 * MiB;

std::string fact_text(const image& of, std::string_view key) {
  for (const image_fact& fact : of.facts()) {
    if (fact.key != key) continue;
    if (const auto* text = std::get_if<std::string>(&fact.value)) return *text;
    if (const auto* number = std::get_if<std::uint64_t>(&fact.value)) return std::to_string(*number);
    if (const auto* set = std::get_if<bool>(&fact.value)) return *set ? "true" : "false";
  }
  return {};
}

/// Why libqcow cannot be asked at all; empty if it can.
std::string obstacle(image& of) {
  if (of.format() != "qcow2" && of.format() != "qcow") return "format " + std::string(of.format());
  if (fact_text(of, "encryption") == "aes") return "encryption (weir reads it through libqcow itself)";
  if (of.backing()) return "a backing image (libqcow reads overlays wrongly)";
  if (fact_text(of, "compression-type") == "zstd") return "compression type zstd";
  if (fact_text(of, "extended-l2") == "true") return "extended L2 entries";
  if (!fact_text(of, "data-file").empty()) return "an external data file";
  if (of.format() == "qcow" && fact_text(of, "l2-entries") != std::to_string(of.grain() / 8)) {
    return "L2 tables that are not one cluster long (libqcow misreads them)";
  }
  if (!of.storage_at(0).descriptor()) return "an image that is not a local file";
  return {};
}

class comparison {
 public:
  comparison(disk& of, compare_progress progress) : disk_(of), progress_(std::move(progress)) {}

  task<outcome<library_verdict>> run() {
    image& own = *disk_.chain().active().image;
    if (std::string why = obstacle(own); !why.empty()) {
      verdict_.not_judged.push_back(std::move(why));
      co_return std::move(verdict_);
    }
    qcow1::reader_setup setup;
    setup.virtual_size = own.virtual_size();
    setup.cluster_bytes = static_cast<std::uint32_t>(own.grain());
    qcow1::library_storage library(disk_.resources().context, own.storage_at(0), setup);
    const outcome<void> done = co_await compare(own, library);
    const result<void> closed = co_await library.close();
    static_cast<void>(closed);
    if (done.has_error()) co_return done.error();
    if (zero_clusters_)
      not_judged("zero clusters (libqcow ignores the flag), the first at offset ", *zero_clusters_);
    if (cut_off_)
      not_judged("a cluster that the file's end cuts off (libqcow reads past it), at offset ", *cut_off_);
    co_return std::move(verdict_);
  }

 private:
  task<outcome<void>> compare(image& own, qcow1::library_storage& library) {
    const std::uint64_t size = own.virtual_size();
    for (std::uint64_t at = 0; at < size && !stopped_ && !verdict_.difference;) {
      const byte_range rest{at, std::min(size - at, step_bytes)};
      const result<mapping> found = co_await own.map(rest, map_effort::status);
      if (found.has_error()) co_return trouble(at, found.error());
      const byte_range part{at, found->extent.length};
      if (is_for_library(own, found->extent, at)) {
        const outcome<void> done = co_await compare_bytes(part, library);
        if (done.has_error()) co_return done;
      }
      at = part.end();
      if (!progress_(at, size)) co_return make_failure(errc::cancelled, disk_.name(), "interrupted");
    }
    co_return outcome<void>{};
  }

  bool is_for_library(image& own, const extent& found, std::uint64_t at) {
    if (found.kind == extent_kind::zero) {
      if (!zero_clusters_) zero_clusters_ = at;
      return false;
    }
    if (found.kind != extent_kind::data) return true;
    const std::uint64_t last = align_up(found.host_offset + found.length, own.grain());
    if (last <= own.storage_at(found.storage_index).size()) return true;
    cut_off_ = at;
    return false;
  }

  task<outcome<void>> compare_bytes(byte_range part, qcow1::library_storage& library) {
    ours_.resize(static_cast<std::size_t>(part.length));
    theirs_.resize(ours_.size());
    const result<void> read = co_await disk_.read(part.offset, ours_);
    if (read.has_error()) co_return trouble(part.offset, read.error());
    const result<void> asked = co_await library.read(part.offset, theirs_);
    if (asked.has_error()) {
      stopped_ = true;
      std::string why = "offset " + std::to_string(part.offset) + " and beyond: " + asked.error().message();
      if (!library.last_words().empty()) why += " (" + library.last_words() + ")";
      verdict_.not_judged.push_back(std::move(why));
      co_return outcome<void>{};
    }
    verdict_.compared_bytes += part.length;
    const auto differs = std::ranges::mismatch(ours_, theirs_).in1 - ours_.begin();
    if (differs != static_cast<std::ptrdiff_t>(ours_.size())) {
      verdict_.difference = part.offset + static_cast<std::uint64_t>(differs);
    }
    co_return outcome<void>{};
  }

  failure trouble(std::uint64_t at, error_code code) const {
    return make_failure(code, disk_.name() + ": offset " + std::to_string(at));
  }

  void not_judged(std::string_view what, std::uint64_t at) {
    verdict_.not_judged.push_back(std::string(what) + std::to_string(at));
  }

  disk& disk_;
  compare_progress progress_;
  library_verdict verdict_;
  std::optional<std::uint64_t> zero_clusters_;
  std::optional<std::uint64_t> cut_off_;
  bool stopped_ = false;
  std::vector<std::byte> ours_;
  std::vector<std::byte> theirs_;
};

}  // namespace

task<outcome<library_verdict>> compare_with_library(disk& of, compare_progress progress) {
  comparison work(of, std::move(progress));
  co_return co_await work.run();
}

}  // namespace weir::cli
