#include "formats/qed/survey.hpp"

#include "engine/base/endian.hpp"

#include <algorithm>
#include <functional>
#include <limits>
#include <span>
#include <utility>

namespace weir::qed {
namespace {

constexpr std::uint64_t read_bytes = 256 * KiB;
/// Clusters whose owners are checked in one walk: one bit each.
constexpr std::uint64_t window_clusters = std::uint64_t{1} << 29;
/// Walks before an image is called too large to check: 32 PiB at 1 MiB clusters, 128 TiB at 4 KiB.
constexpr unsigned most_walks = 64;

/// Called with index and value of every entry that is not 0; false ends the walk.
using entry_visitor = std::function<bool(std::uint64_t index, std::uint64_t value)>;

/// Visits the entries whose bytes are in `buffer`, the first of which is number `index`.
bool visit(std::span<const std::byte> buffer, std::uint64_t index, const entry_visitor& visitor) {
  for (; !buffer.empty(); buffer = buffer.subspan(entry_bytes), ++index) {
    const auto value = load_little<std::uint64_t>(buffer.data());
    if (value != 0 && !visitor(index, value)) return false;
  }
  return true;
}

/// The first `count` entries of the table at `offset`, holes skipped.
task<result<void>> walk_table(storage& file, std::uint64_t offset, std::uint64_t count,
                              const entry_visitor& visitor) {
  const std::uint64_t end = offset + count * entry_bytes;
  std::vector<std::byte> buffer(static_cast<std::size_t>(std::min(read_bytes, count * entry_bytes)));
  std::uint64_t at = offset;
  while (at < std::min(end, file.size())) {
    const byte_range rest = range_between(at, end);
    const result<storage_run> run = co_await file.status(rest);
    if (!run) co_return run.error();
    if (run->hole) {
      at = align_down(at + run->length, entry_bytes);
      // A hole that ends inside an entry: read that entry.
      if (run->length >= entry_bytes) continue;
    }
    const std::uint64_t length = run->hole ? entry_bytes : align_up(run->length, entry_bytes);
    const std::span part = std::span(buffer).first(
        static_cast<std::size_t>(std::min({length, static_cast<std::uint64_t>(buffer.size()), end - at})));
    const result<void> got = co_await file.read(at, part);
    if (!got) co_return got.error();
    if (!visit(part, (at - offset) / entry_bytes, visitor)) break;
    at += part.size();
  }
  co_return result<void>{};
}

/// Finds clusters with two owners, as many clusters at a time as the window has.
class owner_window {
 public:
  explicit owner_window(std::uint64_t cluster_count)
      : seen_(static_cast<std::size_t>(std::min(cluster_count, window_clusters))) {}

  /// False if the cluster lies in the window and was added before.
  bool add(std::uint64_t cluster) {
    if (cluster < first_) return true;
    if (cluster - first_ >= seen_.size()) {
      next_ = std::min(next_, cluster);
      return true;
    }
    const auto index = static_cast<std::size_t>(cluster - first_);
    if (seen_[index]) return false;
    seen_[index] = true;
    return true;
  }

  /// Moves the window on to the first cluster that lay behind it; false if there was none.
  bool advance() {
    if (next_ == none) return false;
    first_ = std::exchange(next_, none);
    std::fill(seen_.begin(), seen_.end(), false);
    return true;
  }

 private:
  static constexpr std::uint64_t none = std::numeric_limits<std::uint64_t>::max();
  std::vector<bool> seen_;
  std::uint64_t first_ = 0;
  std::uint64_t next_ = none;
};

std::string name_entry(const table_entry& table, std::uint64_t l2_index, std::uint64_t value) {
  return "L2 entry " + std::to_string(l2_index) + " of L1 entry " + std::to_string(table.l1_index) +
         " points to " + std::to_string(value);
}

/// One walk over all tables; the failure's text says what is wrong with the image.
task<outcome<void>> walk_clusters(storage& file, const header& of, const table_survey& survey,
                                  owner_window& owners) {
  for (const table_entry& table : survey.tables) {
    std::optional<std::string> complaint;
    const entry_visitor visitor = [&](std::uint64_t index, std::uint64_t value) {
      if (value == zero_entry) return true;
      if (!survey.space.may_be_data(value, file.size())) {
        complaint = name_entry(table, index, value) + ", which is no data cluster";
      } else if (!owners.add(value / of.shape.cluster_bytes)) {
        complaint = name_entry(table, index, value) + ", which another entry owns";
      }
      return !complaint;
    };
    const std::uint64_t count = of.shape.l2_entries(table.l1_index, of.image_bytes);
    const result<void> walked = co_await walk_table(file, table.offset, count, visitor);
    if (!walked) co_return make_failure(walked.error(), file.location());
    if (complaint) co_return make_failure(errc::corrupt_image, file.location(), *complaint);
  }
  co_return outcome<void>{};
}

}  // namespace

task<result<table_survey>> survey_tables(storage& file, const header& of) {
  table_survey survey{occupancy(of.shape, of.header_bytes(), of.l1_offset), {}, {}};
  std::vector<std::uint64_t> offsets;
  const entry_visitor visitor = [&](std::uint64_t index, std::uint64_t value) {
    if (survey.space.may_be_table(value, file.size())) {
      survey.tables.push_back({index, value});
      offsets.push_back(value);
    } else if (!survey.complaint) {
      survey.complaint = "L1 entry " + std::to_string(index) + " points to " + std::to_string(value) +
                         ", where no L2 table can be";
    }
    return true;
  };
  const std::uint64_t count = of.shape.l1_entries(of.image_bytes);
  const result<void> walked = co_await walk_table(file, of.l1_offset, count, visitor);
  if (!walked) co_return walked.error();
  survey.space.set_tables(std::move(offsets));
  const std::optional<std::uint64_t> aliased = survey.space.find_aliased_table();
  if (aliased && !survey.complaint) {
    survey.complaint = "the L2 table at " + std::to_string(*aliased) + " overlaps another";
  }
  co_return survey;
}

task<outcome<void>> check_clusters(storage& file, const header& of, const table_survey& survey) {
  owner_window owners(file.size() / of.shape.cluster_bytes + 1);
  for (unsigned walk = 0; walk < most_walks; ++walk) {
    const outcome<void> walked = co_await walk_clusters(file, of, survey, owners);
    if (!walked) co_return walked.error();
    if (!owners.advance()) co_return outcome<void>{};
  }
  co_return make_failure(errc::unsupported_feature, file.location(),
                         "the file is too long to check after its unclean shutdown");
}

}  // namespace weir::qed
