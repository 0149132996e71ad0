#include "formats/qcow2/stored_counts.hpp"

#include "engine/base/endian.hpp"
#include "formats/qcow2/refcount_codec.hpp"
#include "formats/qcow2/table_pieces.hpp"

#include <algorithm>
#include <string>

namespace weir::qcow2 {
namespace {

constexpr std::uint64_t reserved_table_bits = 0x1ff;
constexpr std::uint64_t piece_bytes = 64 * KiB;

bool is_zero(std::span<const std::byte> bytes) {
  return std::ranges::all_of(bytes, [](std::byte each) { return each == std::byte{0}; });
}

}  // namespace

stored_counts::stored_counts(reference_survey& survey, repair_mode repair)
    : survey_(survey), shape_(survey.head().shape), repair_(repair) {}

// The table

task<result<void>> stored_counts::load() {
  const header& head = survey_.head();
  const byte_range table{head.refcount_table_offset, shape_.offset_of(head.refcount_table_clusters)};
  if (table.empty()) {
    damaged_ = true;
    survey_.log().corruption("there is no refcount table that can be read");
    co_return result<void>{};
  }
  places_.push_back(table);
  if (!survey_.claim_counts(table)) {
    damaged_ = true;
    survey_.log().corruption("the refcount table at " + hexadecimal(table.offset) +
                             " overlaps what is in use or the end of the file");
    const bool inside = shape_.cluster_of(table.end() - 1) < survey_.rules().file_clusters;
    if (!inside) places_.pop_back();
  }
  const auto told = [this](std::uint64_t raw, std::uint64_t index) { judge(raw, index); };
  co_return co_await for_each_entry(survey_.file(), table, told);
}

void stored_counts::judge(std::uint64_t raw, std::uint64_t index) {
  std::string_view fault;
  if ((raw & reserved_table_bits) != 0) {
    fault = "has reserved bits set";
  } else if (!is_aligned(raw, shape_.cluster_size())) {
    fault = "names a place that is no cluster boundary";
  } else if (shape_.cluster_of(raw) >= survey_.rules().file_clusters) {
    fault = "names a block past the end of the file";
  } else {
    const byte_range block{raw, shape_.cluster_size()};
    places_.push_back(block);
    if (!survey_.claim_counts(block)) fault = "names a block that is in use for something else";
  }
  if (fault.empty()) {
    blocks_.resize(std::max<std::size_t>(blocks_.size(), static_cast<std::size_t>(index) + 1));
    blocks_[static_cast<std::size_t>(index)] = raw;
    return;
  }
  damaged_ = true;
  std::string line = "entry " + std::to_string(index) + " of the refcount table (" + hexadecimal(raw) + ") ";
  survey_.log().corruption(line.append(fault));
}

void stored_counts::forget_places() {
  for (const byte_range place : places_) survey_.drop_counts(place);
  places_.clear();
}

// Passes

std::uint64_t stored_counts::settled(std::uint64_t stored, std::uint64_t references) const noexcept {
  // Where references may be missing from the survey, nothing that is counted is given up.
  const std::uint64_t lowered = survey_.complete ? references : std::max(stored, references);
  switch (repair_) {
    case repair_mode::none:
      break;
    case repair_mode::leaks:
      return std::min(stored, lowered);
    case repair_mode::all:
      return std::min(lowered, shape_.highest_refcount());
  }
  return stored;
}

task<result<void>> stored_counts::compare() {
  const result<void> compared = co_await run(pass::look);
  survey_.log().report.image_end_offset = shape_.offset_of(end_cluster_);
  co_return compared;
}

task<result<void>> stored_counts::run(pass what) {
  const std::uint64_t file_clusters = survey_.rules().file_clusters;
  const std::uint64_t per_block = shape_.refcounts_per_block();
  std::uint64_t first = 0;
  for (std::uint64_t index = 0; index < blocks_.size() && first < file_clusters;
       ++index, first += per_block) {
    const std::uint64_t end = std::min(first + per_block, file_clusters);
    if (blocks_[static_cast<std::size_t>(index)] != 0) {
      const result<void> done = co_await run_block(index, what);
      if (!done && what != pass::look) co_return done;
      if (!done) lament(index, done.error());
    } else if (what == pass::look) {
      look_at_uncovered(first, end);
    }
  }
  if (what == pass::look && first < file_clusters) look_at_uncovered(first, file_clusters);
  if (what == pass::look) co_return result<void>{};
  co_return co_await survey_.file().flush();
}

/// Clusters of [first, end) have no block.
void stored_counts::look_at_uncovered(std::uint64_t first, std::uint64_t end) {
  for (auto at = survey_.counts.next(first); at && *at < end; at = survey_.counts.next(*at + 1)) {
    uncovered_ = true;
    look_at(*at, 0, survey_.counts.count(*at));
  }
}

void stored_counts::lament(std::uint64_t index, error_code why) {
  survey_.log().trouble("the refcount block at " + hexadecimal(block(index)) +
                        " cannot be read: " + why.message());
  survey_.complete = false;
}

task<result<void>> stored_counts::run_block(std::uint64_t index, pass what) {
  storage& file = survey_.file();
  const std::uint64_t block = blocks_[static_cast<std::size_t>(index)];
  const std::uint64_t first = index * shape_.refcounts_per_block();
  const auto referenced = survey_.counts.next(first);
  const bool is_needed = referenced && *referenced - first < shape_.refcounts_per_block();
  if (!is_needed) {
    const byte_range whole{block, std::min(shape_.cluster_size(), file.size() - block)};
    const result<storage_run> run = co_await file.status(whole);
    if (run && run->hole && run->length == whole.length) co_return result<void>{};
  }
  std::vector<std::byte> piece(static_cast<std::size_t>(std::min(shape_.cluster_size(), piece_bytes)));
  for (std::uint64_t done = 0; done < shape_.cluster_size(); done += piece.size()) {
    const std::uint64_t cluster = first + shape_.refcounts_in(done);
    if (cluster >= survey_.rules().file_clusters) break;
    const result<void> got = co_await file.read(block + done, piece);
    if (!got) co_return got.error();
    if (!run_piece(piece, cluster, what)) continue;
    const result<void> wrote = co_await file.write(block + done, piece);
    if (!wrote) co_return wrote.error();
  }
  co_return result<void>{};
}

bool stored_counts::run_piece(std::span<std::byte> piece, std::uint64_t first, pass what) {
  const std::uint64_t end =
      std::min(first + shape_.refcounts_in(piece.size()), survey_.rules().file_clusters);
  const unsigned order = shape_.refcount_order;
  bool changed = false;
  const auto visit = [&](std::uint64_t cluster, std::uint64_t references) {
    const std::uint64_t stored = load_refcount(piece.data(), cluster - first, order);
    if (what == pass::look) return look_at(cluster, stored, references);
    const std::uint64_t wanted = settled(stored, references);
    if (what == pass::raise ? wanted <= stored : wanted >= stored) return;
    store_refcount(piece.data(), cluster - first, order, wanted);
    changed = true;
  };
  if (is_zero(piece)) {
    for (auto at = survey_.counts.next(first); at && *at < end; at = survey_.counts.next(*at + 1)) {
      visit(*at, survey_.counts.count(*at));
    }
  } else {
    for (std::uint64_t at = first; at < end; ++at) visit(at, survey_.counts.count(at));
  }
  return changed;
}

void stored_counts::look_at(std::uint64_t cluster, std::uint64_t stored, std::uint64_t references) {
  if (stored == 0 && references == 0) return;
  end_cluster_ = std::max(end_cluster_, cluster + 1);
  overflows_ = overflows_ || references > shape_.highest_refcount();
  if (references > 0) survey_.counts.set_stored_once(cluster, settled(stored, references) == 1);
  if (stored == references) return;
  std::string line = "cluster at " + hexadecimal(shape_.offset_of(cluster)) + " counts " +
                     std::to_string(stored) + ", but has " + std::to_string(references) +
                     (references == 1 ? " reference" : " references");
  if (stored > references) return survey_.log().leak(line);
  if (references > shape_.highest_refcount()) {
    line += ", more than its count can say; convert the image to one with wider refcounts";
  }
  survey_.log().corruption(line);
}

}  // namespace weir::qcow2
