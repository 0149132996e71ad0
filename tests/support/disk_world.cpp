#include "tests/support/disk_world.hpp"

#include "engine/base/task_group.hpp"
#include "formats/registry.hpp"
#include "tests/support/owner_check.hpp"
#include "tests/support/simulation.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <stdexcept>

namespace weir::test {
namespace {

/// Some dozen operations take so long.
constexpr virtual_clock::duration link_limit{20'000};

[[noreturn]] void give_up(const std::string& what) {
  throw std::runtime_error(what);
}

}  // namespace

disk_world::disk_world(world_settings settings)
    : settings_(settings),
      random_(settings.seed),
      clock_(io_.get_executor()),
      buffers_(io_.get_executor(), 16 * MiB),
      workers_(io_.get_executor(), 0),
      link_(clock_, link_limit) {
  if (settings.cuts != link_cuts::none) all_remote_ = draw(4) == 0;
}

disk_world::~disk_world() {
  try {
    if (disk_) close();
  } catch (const std::exception& error) {
    ADD_FAILURE() << "closing the disk: " << error.what();
  }
}

byte_range disk_world::draw_range(std::uint64_t size) {
  static constexpr std::array<std::uint64_t, 4> units{1, sector, 4096, 8192};
  const std::uint64_t unit = units[draw(units.size())];
  const std::uint64_t offset = align_down(draw(size), unit);
  const std::uint64_t longest = draw(4) == 0 ? size : 3 * 4096;
  const std::uint64_t length = align_up(1 + draw(longest), unit);
  return {offset, std::min(length, size - offset)};
}

std::vector<std::byte> disk_world::draw_content(std::uint64_t length) {
  const auto value = static_cast<std::byte>(draw(16) == 0 ? 0 : 1 + draw(255));
  return std::vector<std::byte>(length, value);
}

std::string disk_world::layer_name(std::size_t index) {
  return "layer" + std::to_string(index);
}

std::size_t disk_world::index_of(std::string_view name) const {
  std::size_t index = 0;
  while (index < media_.size() && !name.ends_with(layer_name(index))) ++index;
  if (index == media_.size()) give_up("unknown image " + std::string(name));
  return index;
}

void disk_world::add_layer(std::size_t index) {
  const std::uint64_t size = sector * (1 + draw(settings_.longest_disk_bytes / sector));
  add_image(size, index > 0 ? layer_name(index - 1) : std::string());
  oracle_.resize(size);
}

void disk_world::add_image(std::uint64_t size, const std::string& below) {
  static constexpr std::array<const char*, 3> names{"qcow2", "qed", "raw"};
  const std::string format = names[draw(below.empty() ? 3 : 2)];
  image_create_options options;
  options.virtual_size = size;
  if (!below.empty()) options.backing = backing_reference{below, media_[index_of(below)].format, false};
  if (format == "qcow2") {
    options.options["cluster_size"] = std::to_string(sector << draw(4));
    options.options["compat"] = draw(5) == 0 ? "0.10" : "1.1";
    if (options.options["compat"] == "1.1") options.options["refcount_bits"] = std::to_string(1 << draw(7));
    if (options.options["compat"] == "1.1" && draw(3) == 0) {
      options.options["cluster_size"] = "16384";
      options.options["extended_l2"] = "on";
    }
  }
  if (format == "qed") {
    options.options["cluster_size"] = "4096";
    options.options["table_size"] = draw(2) == 0 ? "1" : "2";
  }
  auto bytes = std::make_unique<simulated_disk>(0, power_);
  simulated_storage target(*bytes);
  const outcome<void> made = run(formats().find(format)->create(target, options));
  if (!made) give_up("create " + format + ": " + made.error().what);
  const result<void> closed = run(target.close());
  if (!closed) give_up("create " + format + ": " + closed.error().message());
  media_.push_back({format, std::move(bytes)});
}

void disk_world::make_chain() {
  const std::size_t depth = 1 + draw(settings_.most_layers);
  for (std::size_t index = 0; index < depth; ++index) {
    add_layer(index);
    open();
    const std::uint64_t batches = 1 + draw(4);
    for (std::uint64_t batch = 0; batch < batches; ++batch) run_requests();
    close();
  }
}

task<outcome<std::shared_ptr<layer>>> disk_world::open_one(std::size_t index, bool writable) {
  simulated_storage_options how;
  how.location = layer_name(index);
  how.clock = &clock_;
  how.shortest_latency = virtual_clock::duration(1);
  how.longest_latency = virtual_clock::duration(1000);
  how.seed = random_();
  how.fickle_discard = true;
  image_open_options options;
  options.writable = writable;
  options.metadata_cache_bytes = draw(2) == 0 ? 4 * KiB : 1 * MiB;
  std::unique_ptr<storage> store = std::make_unique<simulated_storage>(*media_[index].bytes, how);
  if (settings_.cuts != link_cuts::none && (!writable || all_remote_)) {
    store = std::make_unique<remote_storage>(std::move(store), link_);
  }
  auto opened = co_await formats().find(media_[index].format)->open(std::move(store), options);
  if (!opened) co_return make_failure(opened.error().code, "open " + layer_name(index), opened.error().what);
  auto made = std::make_shared<layer>();
  made->model.format = media_[index].format;
  made->model.source.path = layer_name(index);
  made->image = std::move(*opened);
  co_return made;
}

std::unique_ptr<disk> disk_world::open_from(std::size_t newest, disk_settings how) {
  std::vector<std::shared_ptr<layer>> layers;
  for (std::size_t index = newest;;) {
    auto opened = run(open_one(index, layers.empty() && !how.read_only));
    if (!opened) give_up(opened.error().what);
    layers.push_back(std::move(*opened));
    const auto& backing = layers.back()->image->backing();
    if (!backing) break;
    index = index_of(backing->name);
  }
  const engine_resources resources{io_.get_executor(), buffers_, workers_, nullptr};
  return std::make_unique<disk>(resources, std::make_unique<chain>(std::move(layers)), how);
}

void disk_world::open() {
  disk_settings how;
  how.name = "disk";
  how.copy_on_read = draw(3) == 0;
  how.detect_zeroes = draw(3) == 0 ? zero_detection::unmap : zero_detection::off;
  disk_ = open_newest(how);
  inject_errors(true);
}

void disk_world::inject_errors(bool on) {
  injects_errors_ = on;
  apply_errors(on);
}

void disk_world::apply_errors(bool on) {
  if (!on) link_.heal();
  for (medium& each : media_) each.bytes->set_error_rate(on ? settings_.errors_per_million : 0, random_());
}

/// Now and then, while a batch of requests runs.
task<void> disk_world::cut_link() {
  const bool longer = settings_.cuts == link_cuts::longer_too && draw(3) == 0;
  const auto longest = static_cast<std::uint64_t>(link_limit.count()) * (longer ? 3 : 1);
  const std::uint64_t before = draw(5000);
  const std::uint64_t length = draw(longer ? longest : longest / 3);
  co_await clock_.sleep(virtual_clock::duration(before));
  if (link_.is_up()) link_.cut(virtual_clock::duration(length));
}

bool disk_world::may_fail() const noexcept {
  return settings_.errors_per_million > 0 || settings_.cuts == link_cuts::longer_too || !power_.on();
}

void disk_world::close() {
  inject_errors(false);
  finish_job();
  inject_errors(false);
  const auto flushing = oracle_.begin_flush();
  const result<void> closed = run(disk_->close());
  oracle_.end_flush(flushing, static_cast<bool>(closed));
  disk_.reset();
  if (!closed && power_.on()) give_up("close: " + closed.error().message());
}

task<void> disk_world::read(byte_range range) {
  std::vector<std::byte> bytes(range.length);
  const result<void> done = co_await disk_->read(range.offset, bytes);
  EXPECT_TRUE(done || may_fail()) << done.error().message();
  if (done) EXPECT_TRUE(oracle_.saw(range.offset, bytes));
}

task<void> disk_world::write(byte_range range, bool fua) {
  const std::vector<std::byte> bytes = draw_content(range.length);
  const auto change = oracle_.begin_change(range, bytes);
  const write_flags flags{.fua = fua};
  const result<void> done = co_await disk_->write(range.offset, bytes, flags);
  EXPECT_TRUE(done || may_fail()) << done.error().message();
  oracle_.end_change(change, done ? guest_oracle::ending::done : guest_oracle::ending::failed);
}

task<void> disk_world::zero_or_discard(byte_range range, bool discards) {
  const auto change = oracle_.begin_change(range);
  result<void> done;
  if (discards) {
    done = co_await disk_->discard(range, {});
  } else {
    zero_flags flags;
    flags.may_punch = draw(2) == 0;
    done = co_await disk_->zero(range, flags);
  }
  const auto how = discards ? guest_oracle::ending::discarded : guest_oracle::ending::done;
  oracle_.end_change(change, done ? how : guest_oracle::ending::failed);
}

task<void> disk_world::flush() {
  const auto flushing = oracle_.begin_flush();
  const result<void> done = co_await disk_->flush();
  EXPECT_TRUE(done || may_fail()) << done.error().message();
  oracle_.end_flush(flushing, static_cast<bool>(done));
}

task<void> disk_world::request(std::uint64_t kind, byte_range range) {
  switch (kind) {
    case 0:
    case 1:
    case 2:
      return read(range);
    case 3:
      return zero_or_discard(range, true);
    case 4:
      return zero_or_discard(range, false);
    case 5:
      return flush();
    case 6:
      return write(range, true);
    default:
      return write(range, false);
  }
}

void disk_world::run_requests() {
  const auto work = [this]() -> task<void> {
    task_group group(io_.get_executor());
    std::vector<byte_range> taken;
    if (settings_.cuts != link_cuts::none && draw(2) == 0) group.spawn(cut_link());
    const std::uint64_t count = 1 + draw(8);
    for (std::uint64_t index = 0; index < count; ++index) {
      const byte_range range = draw_range(disk_->size());
      if (std::ranges::any_of(taken, [&](byte_range other) { return other.overlaps(range); })) continue;
      taken.push_back(range);
      group.spawn(request(draw(12), range));
    }
    tell_job_to_end();
    co_await group.join();
  };
  run(work());
  if (job_ && job_ended_) take_result();
}

void disk_world::toggle_copy_on_read() {
  disk_->set_copy_on_read(!disk_->settings().copy_on_read);
}

void disk_world::check_owners(unsigned count) {
  // Streaming must not change the layers between two questions; requests meanwhile ask the chain, too.
  if (job_ && draw(2) == 0) return;
  finish_job();
  const auto work = [this, count]() -> task<void> {
    const weir::chain& layers = disk_->chain();
    for (unsigned done = 0; done < count; ++done) {
      const byte_range range = draw_range(disk_->size());
      depth_range among;
      if (draw(3) == 0) among.first = draw(layers.depth());
      if (draw(3) == 0) among.last = among.first + draw(layers.depth() + 1);
      const map_effort effort = draw(4) == 0 ? map_effort::status : map_effort::locate;
      co_await expect_same_owners(layers, range, among, effort);
      if (draw(16) == 0) layers.forget_owners();
    }
  };
  run(work());
}

void disk_world::check_content() {
  const bool opens = disk_ == nullptr;
  if (opens) open();
  inject_errors(false);
  std::vector<std::byte> all(disk_->size());
  const result<void> done = run(disk_->read(0, all));
  EXPECT_TRUE(done) << done.error().message();
  if (done) EXPECT_TRUE(oracle_.saw(0, all));
  inject_errors(true);
  if (opens) close();
}

void disk_world::lose_power(std::uint64_t seed) {
  power_.cut();
  if (disk_) close();
  power_ = power_supply();
  for (medium& each : media_) {
    each.bytes = std::make_unique<simulated_disk>(each.bytes->after_power_loss(seed, power_));
  }
  open();
  inject_errors(false);
  std::vector<std::byte> all(disk_->size());
  const result<void> done = run(disk_->read(0, all));
  EXPECT_TRUE(done) << done.error().message();
  if (done) EXPECT_TRUE(oracle_.may_survive(all));
}

std::string disk_world::description() const {
  std::string text = "seed " + std::to_string(settings_.seed) + ":";
  for (std::size_t index = media_.size(); index-- > 0;) text += " " + media_[index].format;
  return text;
}

}  // namespace weir::test
