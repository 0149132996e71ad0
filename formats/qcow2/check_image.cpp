#include "formats/qcow2/check_image.hpp"

#include "engine/base/endian.hpp"
#include "formats/check_run.hpp"
#include "formats/qcow2/entry_mender.hpp"
#include "formats/qcow2/rebuild.hpp"
#include "formats/qcow2/reference_survey.hpp"
#include "formats/qcow2/stored_counts.hpp"

#include <array>
#include <string>
#include <utility>
#include <vector>

namespace weir::qcow2 {
namespace {

constexpr std::uint64_t version_at = 4;
constexpr std::uint64_t crypt_method_at = 32;

/// The header as a check needs it: neither encryption nor where a data file is matters, and a refcount table in an impossible place is a
/// finding (its cluster count is 0 then), not a reason to give up.
task<outcome<header>> read_header_to_check(storage& file) {
  std::array<std::byte, first_look_bytes> first{};
  if (file.size() < first.size()) {
    co_return make_failure(errc::not_this_format, file.location(), "too short for a qcow2 image");
  }
  result<void> got = co_await file.read(0, first);
  if (!got) co_return make_failure(got.error(), file.location());
  const outcome<std::uint64_t> cluster_size = parse_cluster_size(first, file.location());
  if (!cluster_size) co_return cluster_size.error();
  std::vector<std::byte> cluster(static_cast<std::size_t>(*cluster_size));
  got = co_await file.read(0, cluster);
  if (!got) co_return make_failure(got.error(), file.location());
  const auto method = load_big<std::uint32_t>(cluster.data() + crypt_method_at);
  store_big(cluster.data() + crypt_method_at, std::uint32_t{0});
  const bool is_v2 = load_big<std::uint32_t>(cluster.data() + version_at) < 3;
  const std::uint64_t features = is_v2 ? 0 : load_big<std::uint64_t>(cluster.data() + field::incompatible);
  if (!is_v2) store_big(cluster.data() + field::incompatible, features & ~incompatible_bit::data_file);
  outcome<header> head = parse_header(cluster, file.size(), file.location());
  if (!head && head.error().code == error_code(errc::corrupt_image)) {
    store_big(cluster.data() + field::refcount_table, std::uint64_t{0});
    store_big(cluster.data() + field::refcount_table + 8, std::uint32_t{0});
    outcome<header> without_counts = parse_header(cluster, file.size(), file.location());
    if (without_counts) head = std::move(without_counts);
  }
  if (!head) co_return head;
  head->crypt_method = method;
  head->incompatible = features;
  co_return head;
}

/// One pass over the image, with the repairs of steps 1 to 4.
class image_check {
 public:
  image_check(storage& file, const header& head, repair_mode repair, finding_sink sink)
      : log_(std::move(sink)),
        survey_(file, head, log_),
        stored_(survey_, repair),
        mender_(survey_),
        repair_(repair) {}

  task<outcome<check_report>> run();
  /// Repairs if only counts and missing COPIED flags are wrong; false, with nothing changed, otherwise.
  task<outcome<bool>> recover();

 private:
  task<outcome<void>> count();
  task<outcome<void>> repair_all();
  task<outcome<void>> repair_leaks();
  outcome<void> told(result<void> done);

  check_log log_;
  reference_survey survey_;
  stored_counts stored_;
  entry_mender mender_;
  repair_mode repair_;
};

outcome<void> image_check::told(result<void> done) {
  if (done) return {};
  return make_failure(done.error(), survey_.file().location());
}

task<outcome<void>> image_check::count() {
  result<void> done = co_await stored_.load();
  if (done) done = co_await stored_.compare();
  co_return told(done);
}

task<outcome<check_report>> image_check::run() {
  const header& head = survey_.head();
  log_.report.total_clusters = head.shape.clusters_for(head.virtual_size);
  outcome<void> done = co_await survey_.run();
  if (done) done = co_await count();
  if (!done) co_return done.error();
  // What cannot be read in full is not written to.
  const bool readable = log_.report.check_errors == 0;
  if (readable && repair_ == repair_mode::all) {
    done = co_await repair_all();
  } else {
    if (readable && repair_ == repair_mode::leaks) done = co_await repair_leaks();
    result<void> looked;
    if (done) looked = co_await mender_.look();
    if (done) done = told(looked);
  }
  if (!done) co_return done.error();
  if (log_.report.leaks > 0 && !survey_.complete) {
    log_.say("leaked clusters are kept: they may belong to what is damaged");
  }
  co_return log_.report;
}

task<outcome<void>> image_check::repair_leaks() {
  if (log_.report.leaks == 0) co_return outcome<void>{};
  const result<void> lowered = co_await stored_.lower();
  co_return told(lowered);
}

task<outcome<bool>> image_check::recover() {
  outcome<void> done = co_await survey_.run();
  if (!done) co_return done.error();
  if (log_.report.corruptions > 0 || !survey_.complete) co_return false;
  done = co_await count();
  if (!done) co_return done.error();
  const result<void> looked = co_await mender_.look();
  if (!looked) co_return make_failure(looked.error(), survey_.file().location());
  if (log_.report.check_errors > 0 || mender_.shared_count() > 0 || stored_.overflows()) co_return false;
  done = co_await repair_all();
  if (!done) co_return done.error();
  co_return true;
}

task<outcome<void>> image_check::repair_all() {
  const bool rebuild = stored_.must_rebuild();
  const bool counts_differ = log_.report.corruptions > 0 || log_.report.leaks > 0;
  if (rebuild) {
    count_rebuild work(survey_, stored_);
    const outcome<void> rebuilt = co_await work.run();
    if (!rebuilt) co_return rebuilt;
  }
  result<void> done;
  if (!rebuild && counts_differ) done = co_await stored_.raise();
  if (done) done = co_await mender_.mend();
  if (done && !rebuild && counts_differ) done = co_await stored_.lower();
  if (done && mender_.missing_count() > 0) done = co_await mender_.mark();
  co_return told(done);
}

task<result<void>> clear_bits(storage& file, std::uint64_t bits) {
  std::array<std::byte, 4> version{};
  const result<void> known = co_await file.read(version_at, version);
  // Version 2 has no such bits.
  if (!known || load_big<std::uint32_t>(version.data()) < 3) co_return known;
  std::array<std::byte, 8> stored{};
  result<void> done = co_await file.read(field::incompatible, stored);
  if (!done) co_return done;
  const auto before = load_big<std::uint64_t>(stored.data());
  if ((before & bits) == 0) co_return result<void>{};
  // What the bits warned of must be durable before they go.
  done = co_await file.flush();
  if (!done) co_return done;
  store_big(stored.data(), before & ~bits);
  done = co_await file.write(field::incompatible, stored);
  if (done) done = co_await file.flush();
  co_return done;
}

task<outcome<check_report>> check_once(storage& file, repair_mode repair, finding_sink sink) {
  const outcome<header> head = co_await read_header_to_check(file);
  if (!head) co_return head.error();
  image_check check(file, *head, repair, std::move(sink));
  co_return co_await check.run();
}

task<outcome<void>> clear_marks(storage& file) {
  const result<void> cleared = co_await clear_bits(file, incompatible_bit::dirty | incompatible_bit::corrupt);
  if (!cleared) co_return make_failure(cleared.error(), file.location());
  co_return outcome<void>{};
}

}  // namespace

task<outcome<check_report>> check_image(std::unique_ptr<storage> from, check_options options) {
  const format_check qcow2_check{.look = &check_once, .clear_marks = &clear_marks};
  co_return co_await run_check(std::move(from), std::move(options), qcow2_check);
}

task<outcome<void>> recover_counts(storage& file, const header& head) {
  std::string first_finding;
  const finding_sink sink = [&](std::string_view line) {
    if (first_finding.empty()) first_finding = line;
  };
  image_check check(file, head, repair_mode::all, sink);
  const outcome<bool> recovered = co_await check.recover();
  if (!recovered) co_return recovered.error();
  if (!*recovered) {
    co_return make_failure(
        errc::corrupt_image, file.location(),
        "was not closed cleanly and is damaged (" + first_finding + "); repair it with weir check -r all");
  }
  const result<void> cleared = co_await clear_bits(file, incompatible_bit::dirty);
  if (!cleared) co_return make_failure(cleared.error(), file.location());
  co_return outcome<void>{};
}

}  // namespace weir::qcow2
