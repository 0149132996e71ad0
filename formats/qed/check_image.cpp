#include "formats/qed/check_image.hpp"

#include "engine/base/endian.hpp"
#include "formats/check_log.hpp"
#include "formats/check_run.hpp"
#include "formats/qcow2/reference_counts.hpp"
#include "formats/qcow2/table_pieces.hpp"
#include "formats/qed/header.hpp"
#include "formats/qed/header_store.hpp"
#include "formats/qed/open.hpp"

#include <boost/asio/this_coro.hpp>

#include <algorithm>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace weir::qed {
namespace {

std::string guest_text(std::uint64_t offset, std::uint64_t length) {
  return "guest bytes " + std::to_string(offset) + " to " + std::to_string(offset + length);
}

class image_check {
 public:
  image_check(storage& file, const header& fields, repair_mode repair, finding_sink sink)
      : file_(file),
        fields_(fields),
        shape_(fields.shape),
        repair_(repair),
        log_(std::move(sink)),
        file_clusters_(file.size() / shape_.cluster_bytes +
                       (file.size() % shape_.cluster_bytes != 0 ? 1 : 0)) {}

  task<outcome<check_report>> run();

 private:
  struct l2_table {
    std::uint64_t index;
    std::uint64_t offset;
  };

  bool is_cluster(std::uint64_t offset) const noexcept {
    return is_aligned(offset, shape_.cluster_bytes) && offset >= fields_.header_bytes() &&
           offset / shape_.cluster_bytes < file_clusters_;
  }
  /// Metadata takes its clusters; false if any is taken already.
  bool claim(std::uint64_t offset, std::uint64_t clusters);

  task<result<void>> walk_l1();
  task<result<void>> walk_l2(l2_table table);
  /// What the entries are to become; true if any changes.
  bool judge_l1(std::span<std::byte> entries, std::uint64_t index);
  bool judge_l2(std::span<std::byte> entries, std::uint64_t index, l2_table table,
                std::uint64_t& behind_last);
  std::string_view fault_of(std::uint64_t entry);
  void count_leaks();
  task<result<void>> cut_tail();

  storage& file_;
  const header& fields_;
  geometry shape_;
  repair_mode repair_;
  check_log log_;
  std::uint64_t file_clusters_;
  qcow2::reference_counts used_;
  std::vector<l2_table> tables_;
  std::uint64_t behind_used_ = 0;  // cluster
  bool wrote_ = false;
};

bool image_check::claim(std::uint64_t offset, std::uint64_t clusters) {
  const std::uint64_t first = offset / shape_.cluster_bytes;
  bool alone = true;
  for (std::uint64_t cluster = first; cluster < first + clusters; ++cluster) {
    alone = alone && used_.count(cluster) == 0;
    used_.add(cluster);
    used_.set_metadata(cluster, true);
  }
  behind_used_ = std::max(behind_used_, first + clusters);
  return alone;
}

// Tables

bool image_check::judge_l1(std::span<std::byte> entries, std::uint64_t index) {
  bool changed = false;
  for (std::size_t at = 0; at + entry_bytes <= entries.size(); at += entry_bytes, ++index) {
    const auto offset = load_little<std::uint64_t>(entries.data() + at);
    if (offset == unallocated_entry) continue;
    const std::uint64_t last = offset + (shape_.table_clusters - 1) * shape_.cluster_bytes;
    const std::string line = "L1 entry " + std::to_string(index) + " points to " + std::to_string(offset) +
                             " (" + guest_text(index * shape_.table_span(), shape_.table_span()) + "), ";
    if (!is_cluster(offset) || last < offset || !is_cluster(last)) {
      log_.corruption(line + "where no L2 table can be; what it held is lost");
      if (repair_ != repair_mode::all) continue;
      store_little(entries.data() + at, unallocated_entry);
      changed = true;
    } else if (!claim(offset, shape_.table_clusters)) {
      log_.corruption(line + "which is in use already; this cannot be repaired");
    } else {
      tables_.push_back({index, offset});
    }
  }
  return changed;
}

/// Empty if the entry names a data cluster of its own.
std::string_view image_check::fault_of(std::uint64_t entry) {
  if (!is_cluster(entry)) return "where no cluster can be; what it held is lost";
  const std::uint64_t cluster = entry / shape_.cluster_bytes;
  const bool metadata = used_.is_metadata(cluster);
  const bool taken = used_.count(cluster) > 0;
  used_.add(cluster);
  behind_used_ = std::max(behind_used_, cluster + 1);
  if (metadata) return "which is metadata; this cannot be repaired";
  return taken ? "which another entry owns; this cannot be repaired" : "";
}

bool image_check::judge_l2(std::span<std::byte> entries, std::uint64_t index, l2_table table,
                           std::uint64_t& behind_last) {
  bool changed = false;
  for (std::size_t at = 0; at + entry_bytes <= entries.size(); at += entry_bytes, ++index) {
    const auto offset = load_little<std::uint64_t>(entries.data() + at);
    if (offset == unallocated_entry || offset == zero_entry) continue;
    ++log_.report.allocated_clusters;
    if (behind_last != 0 && offset != behind_last) ++log_.report.fragmented_clusters;
    behind_last = offset + shape_.cluster_bytes;
    const std::string_view fault = fault_of(offset);
    if (fault.empty()) continue;
    const std::uint64_t guest = table.index * shape_.table_span() + index * shape_.cluster_bytes;
    std::string line = "L2 entry " + std::to_string(index) + " of L1 entry " + std::to_string(table.index) +
                       " points to " + std::to_string(offset) + " (" +
                       guest_text(guest, shape_.cluster_bytes) + "), ";
    log_.corruption(line.append(fault));
    if (repair_ != repair_mode::all || is_cluster(offset)) continue;
    store_little(entries.data() + at, unallocated_entry);
    changed = true;
  }
  return changed;
}

task<result<void>> image_check::walk_l1() {
  qcow2::table_pieces pieces(file_, {fields_.l1_offset, shape_.table_bytes()});
  while (true) {
    const auto piece = co_await pieces.next();
    if (!piece) co_return piece.error();
    if (piece->bytes.empty()) co_return result<void>{};
    if (!judge_l1(piece->bytes, (piece->offset - fields_.l1_offset) / entry_bytes)) continue;
    wrote_ = true;
    const result<void> wrote = co_await file_.write(piece->offset, piece->bytes);
    if (!wrote) co_return wrote;
  }
}

task<result<void>> image_check::walk_l2(l2_table table) {
  qcow2::table_pieces pieces(file_, {table.offset, shape_.table_bytes()});
  std::uint64_t behind_last = 0;
  while (true) {
    const auto piece = co_await pieces.next();
    if (!piece) {
      log_.trouble("the L2 table at " + std::to_string(table.offset) +
                   " cannot be read: " + piece.error().message());
      co_return result<void>{};
    }
    if (piece->bytes.empty()) co_return result<void>{};
    if (!judge_l2(piece->bytes, (piece->offset - table.offset) / entry_bytes, table, behind_last)) continue;
    wrote_ = true;
    const result<void> wrote = co_await file_.write(piece->offset, piece->bytes);
    if (!wrote) co_return wrote;
  }
}

// Leaks

void image_check::count_leaks() {
  std::uint64_t from = 0;
  while (from < file_clusters_) {
    const std::uint64_t used = used_.next(from).value_or(file_clusters_);
    if (used > from) {
      log_.report.leaks += used - from;
      log_.say(std::to_string(used - from) + " clusters from " + std::to_string(from * shape_.cluster_bytes) +
               " on are named by nothing");
    }
    from = used + 1;
  }
}

task<result<void>> image_check::cut_tail() {
  if (behind_used_ >= file_clusters_ || !file_.capabilities().can_grow) co_return result<void>{};
  const result<void> cut = co_await file_.truncate(behind_used_ * shape_.cluster_bytes);
  if (cut) wrote_ = true;
  co_return cut;
}

task<outcome<check_report>> image_check::run() {
  log_.report.total_clusters =
      fields_.image_bytes / shape_.cluster_bytes + (fields_.image_bytes % shape_.cluster_bytes != 0 ? 1 : 0);
  bool sound = claim(0, fields_.header_clusters);
  sound = claim(fields_.l1_offset, shape_.table_clusters) && sound;
  if (!sound) log_.corruption("the L1 table lies in the header; this cannot be repaired");
  result<void> done = co_await walk_l1();
  for (std::size_t at = 0; done && at < tables_.size() && !used_.is_full(); ++at) {
    done = co_await walk_l2(tables_[at]);
  }
  if (used_.is_full()) {
    co_return make_failure(errc::unsupported_feature, file_.location(),
                           "has more clusters than can be checked in memory");
  }
  if (done) count_leaks();
  const bool whole = log_.report.corruptions == 0 && log_.report.check_errors == 0;
  if (done && repair_ != repair_mode::none && whole) done = co_await cut_tail();
  if (done && wrote_) done = co_await file_.flush();
  if (!done) co_return make_failure(done.error(), file_.location());
  co_return log_.report;
}

task<outcome<check_report>> check_once(storage& file, repair_mode repair, finding_sink sink) {
  const outcome<header> fields = co_await read_header(file);
  if (!fields) co_return fields.error();
  if (fields->header_bytes() > file.size()) {
    co_return make_failure(errc::corrupt_image, file.location(), "the header is longer than the file");
  }
  image_check check(file, *fields, repair, std::move(sink));
  co_return co_await check.run();
}

task<outcome<void>> clear_need_check(storage& file) {
  const outcome<header> fields = co_await read_header(file);
  if (!fields) co_return fields.error();
  if (!fields->has(feature::need_check)) co_return outcome<void>{};
  // After a crash of the process alone, what was checked may not be on stable storage yet.
  result<void> done = co_await file.flush();
  header_store store(co_await boost::asio::this_coro::executor, file, *fields, std::nullopt);
  if (done) done = co_await store.mark_clean();
  if (!done) co_return make_failure(done.error(), file.location());
  co_return outcome<void>{};
}

}  // namespace

task<outcome<check_report>> check_image(std::unique_ptr<storage> from, check_options options) {
  const format_check qed_check{.look = &check_once, .clear_marks = &clear_need_check};
  co_return co_await run_check(std::move(from), std::move(options), qed_check);
}

}  // namespace weir::qed
