#include "tests/support/qed_world.hpp"

#include "engine/storage/simulated_storage.hpp"
#include "formats/qed/header.hpp"
#include "formats/qed/qed.hpp"
#include "formats/qed/survey.hpp"
#include "tests/support/simulation.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <string>
#include <utility>

namespace weir::test {
namespace {

using namespace std::chrono_literals;

std::unique_ptr<storage> storage_on(simulated_disk& disk, virtual_clock& clock, std::uint64_t seed) {
  simulated_storage_options options;
  options.clock = &clock;
  options.shortest_latency = 1us;
  options.longest_latency = 100us;
  options.seed = seed;
  return std::make_unique<simulated_storage>(disk, options);
}

byte_range draw_range(std::mt19937_64& random, std::uint64_t length) {
  // Half of the ends on grain edges, where most decisions are.
  const auto draw_edge = [&] {
    const std::uint64_t at = random() % (length + 1);
    return random() % 2 == 0 ? at : align_down(at, 4 * KiB);
  };
  const auto [first, last] = std::minmax({draw_edge(), draw_edge()});
  return range_between(first, last);
}

std::vector<std::byte> draw_bytes(std::mt19937_64& random, std::size_t length) {
  std::vector<std::byte> bytes(length);
  for (std::byte& each : bytes) each = static_cast<std::byte>(random() % 255 + 1);
  return bytes;
}

task<void> check_tables(storage& file) {
  qed::header_fields bytes{};
  (co_await file.read(0, bytes)).value();
  const qed::header fields = qed::parse_header(bytes, file.size(), "closed").value();
  EXPECT_FALSE(fields.has(qed::feature::need_check)) << "a clean close leaves nothing to check";
  const qed::table_survey survey = (co_await qed::survey_tables(file, fields)).value();
  EXPECT_EQ(survey.complaint.value_or(""), "");
  const outcome<void> sound = co_await qed::check_clusters(file, fields, survey);
  EXPECT_TRUE(sound) << (sound ? "" : sound.error().what);
}

}  // namespace

qed_world::qed_world(qed_world_settings settings)
    : settings_(settings), clock_(io_.get_executor()), disk_(std::make_unique<simulated_disk>(0, power_)) {
  std::mt19937_64 random(settings.seed);
  backing_.resize(virtual_size);
  image_create_options options;
  options.virtual_size = virtual_size;
  options.options = {{"cluster_size", "4K"}, {"table_size", "1"}};
  if (settings.with_backing) {
    for (const byte_range& window : windows) {
      const std::vector<std::byte> bytes = draw_bytes(random, window.length);
      std::ranges::copy(bytes, backing_.begin() + static_cast<std::ptrdiff_t>(window.offset));
    }
    options.backing = backing_reference{"base.raw", "raw", false};
  }
  const auto file = storage_on(*disk_, clock_, settings.seed);
  run_simulation(io_, clock_, qed_driver().create(*file, options)).value();
  open(true);
  settle_on(read_windows());
  disk_->set_error_rate(settings.errors_per_million, settings.seed);
}

qed_world::~qed_world() {
  if (image_) close();
}

std::uint64_t qed_world::oracle_base(std::size_t window) {
  std::uint64_t base = 0;
  for (std::size_t index = 0; index < window; ++index) base += windows[index].length;
  return base;
}

void qed_world::open(bool expect_clean) {
  image_open_options options;
  options.writable = true;
  options.metadata_cache_bytes = 0;
  auto opened = run_simulation(
      io_, clock_, qed_driver().open(storage_on(*disk_, clock_, settings_.seed + ++run_count_), options));
  if (!opened) throw std::runtime_error(opened.error().what);
  image_ = std::move(*opened);
  driver_.emplace(*image_, std::span<const std::byte>(backing_));
  EXPECT_TRUE(expect_clean || image_->facts().size() == 3);
}

void qed_world::close() {
  driver_.reset();
  const result<void> closed = run_simulation(io_, clock_, image_->close());
  EXPECT_TRUE(closed || !power_.on() || settings_.errors_per_million != 0);
  image_.reset();
}

void qed_world::reopen() {
  close();
  open(true);
  check_content();
}

void qed_world::lose_power(std::uint64_t survival) {
  close();
  disk_ = std::make_unique<simulated_disk>(disk_->after_power_loss(survival));
  settings_.errors_per_million = 0;
  open(false);
  const std::vector<std::byte> content = read_windows();
  EXPECT_TRUE(oracle_.may_survive(content));
  settle_on(content);
}

void qed_world::close_and_check() {
  disk_->set_error_rate(0, 1);
  settings_.errors_per_million = 0;
  close();
  const auto file = storage_on(*disk_, clock_, 1);
  run_simulation(io_, clock_, check_tables(*file));
}

void qed_world::settle_on(const std::vector<std::byte>& content) {
  oracle_ = guest_oracle(content.size());
  const auto change = oracle_.begin_change({0, content.size()}, content);
  oracle_.end_change(change, guest_oracle::ending::done);
  const auto flushed = oracle_.begin_flush();
  oracle_.end_flush(flushed, true);
}

std::vector<std::byte> qed_world::read_windows() {
  std::vector<std::byte> content;
  for (const byte_range& window : windows) {
    std::vector<std::byte> bytes(window.length);
    run_simulation(io_, clock_, driver_->read(window.offset, bytes)).value();
    content.insert(content.end(), bytes.begin(), bytes.end());
  }
  return content;
}

void qed_world::check_content() {
  EXPECT_TRUE(oracle_.saw(0, read_windows()));
}

void qed_world::run_requests(unsigned count) {
  task_group workers(io_.get_executor());
  ++run_count_;
  for (std::size_t window = 0; window < windows.size(); ++window) workers.spawn(work(window, count));
  run_simulation(io_, clock_, workers.join());
}

task<void> qed_world::work(std::size_t window, unsigned count) {
  std::mt19937_64 random(settings_.seed * 1000 + run_count_ * 10 + window);
  for (unsigned index = 0; index < count && power_.on(); ++index) co_await request(window, random);
}

task<void> qed_world::request(std::size_t window, std::mt19937_64& random) {
  const byte_range within = draw_range(random, windows[window].length);
  const std::uint64_t kind = random() % 10;
  if (kind == 0) co_return co_await flush();
  if (within.empty()) co_return;
  if (kind <= 5) co_return co_await write(window, within, random);
  if (kind == 6) co_return co_await zero(window, within);
  if (kind == 7) co_return co_await discard(window, within);
  co_await read(window, within);
}

task<void> qed_world::write(std::size_t window, byte_range within, std::mt19937_64& random) {
  const std::vector<std::byte> bytes = draw_bytes(random, within.length);
  const auto change = oracle_.begin_change({oracle_base(window) + within.offset, within.length}, bytes);
  const result<void> done = co_await driver_->write(windows[window].offset + within.offset, bytes);
  oracle_.end_change(change, done ? guest_oracle::ending::done : guest_oracle::ending::failed);
}

task<void> qed_world::zero(std::size_t window, byte_range within) {
  const auto change = oracle_.begin_change({oracle_base(window) + within.offset, within.length});
  const byte_range guest{windows[window].offset + within.offset, within.length};
  const result<void> done = co_await driver_->zero(guest);
  oracle_.end_change(change, done ? guest_oracle::ending::done : guest_oracle::ending::failed);
}

task<void> qed_world::discard(std::size_t window, byte_range within) {
  const byte_range guest{windows[window].offset + within.offset, within.length};
  const byte_range whole = driver_->whole_grains(guest);
  if (whole.empty()) co_return;
  const std::uint64_t base = oracle_base(window) - windows[window].offset;
  const auto change = oracle_.begin_change({base + whole.offset, whole.length});
  const result<byte_range> done = co_await driver_->discard(guest);
  oracle_.end_change(change, done ? guest_oracle::ending::discarded : guest_oracle::ending::failed);
}

task<void> qed_world::read(std::size_t window, byte_range within) {
  std::vector<std::byte> bytes(within.length);
  const result<void> got = co_await driver_->read(windows[window].offset + within.offset, bytes);
  if (got) EXPECT_TRUE(oracle_.saw(oracle_base(window) + within.offset, bytes));
}

task<void> qed_world::flush() {
  const auto flushed = oracle_.begin_flush();
  const result<void> done = co_await driver_->flush();
  oracle_.end_flush(flushed, done.has_value());
}

}  // namespace weir::test
