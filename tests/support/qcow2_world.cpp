#include "tests/support/qcow2_world.hpp"

#include "engine/base/endian.hpp"
#include "engine/block/bitmap_store.hpp"
#include "engine/block/cluster_bytes.hpp"
#include "engine/block/snapshot_store.hpp"
#include "formats/qcow2/qcow2.hpp"
#include "tests/support/qcow2_checker.hpp"

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace weir::test {

void forget_copied(simulated_disk& disk, std::mt19937_64& random) {
  constexpr std::uint64_t copied = std::uint64_t{1} << 63;
  const auto number = [&](std::uint64_t at, std::size_t width) {
    std::vector<std::byte> raw(8);
    disk.visible().read(at, std::span(raw).last(width));
    return load_big<std::uint64_t>(raw.data());
  };
  const auto forget = [&](std::uint64_t at) {
    const std::uint64_t entry = number(at, 8);
    if ((entry & copied) == 0 || random() % 2 == 0) return;
    std::vector<std::byte> raw(8);
    store_big(raw.data(), entry & ~copied);
    disk.load(at, raw);
  };
  const std::uint64_t cluster_size = std::uint64_t{1} << number(20, 4);
  const std::uint64_t l1 = number(40, 8);
  const std::uint64_t entry_size = number(4, 4) >= 3 && (number(72, 8) & 16) != 0 ? 16 : 8;
  for (std::uint64_t at = l1; at < l1 + number(36, 4) * 8; at += 8) {
    const std::uint64_t table = number(at, 8) & ~copied;
    for (std::uint64_t entry = table; table != 0 && entry < table + cluster_size; entry += entry_size)
      forget(entry);
    forget(at);
  }
}

qcow2_world::qcow2_world(const qcow2_settings& settings)
    : random_(settings.seed), disk_(0, power_), data_disk_(0, power_), oracle_({}) {
  choose_options(settings);
  make_backing();
  std::vector<sector_oracle::tag> initial(static_cast<std::size_t>(size_ / world_sector), 0);
  for (std::size_t sector = 0; sector < initial.size(); ++sector) initial[sector] = backing_tag(sector);
  oracle_ = sector_oracle(std::move(initial));
  simulated_storage into(disk_);
  image_create_options options = options_;
  options.create_data_file = data_file_on(data_disk_);
  const outcome<void> created = run(io_, qcow2_driver().create(into, std::move(options)));
  if (!created) throw std::logic_error(created.error().what);
  disk_.settle_all();
  data_disk_.settle_all();
}

void qcow2_world::open() {
  image_ = open_on(disk_, data_disk_, true);
  ASSERT_NE(image_, nullptr);
  driver_.emplace(*image_, backing_);
}

result<void> qcow2_world::close() {
  driver_.reset();
  const result<void> closed = run(io_, image_->close());
  image_.reset();
  if (closed) oracle_.settle();
  return closed;
}

void qcow2_world::forget_copied_sometimes() {
  if (!forgetful_) return;
  disk_.settle_all();
  forget_copied(disk_, random_);
}

void qcow2_world::abandon() {
  driver_.reset();
  image_.reset();
}

void qcow2_world::step() {
  const std::uint64_t first = draw(oracle_.count());
  const std::uint64_t most = std::min<std::uint64_t>(oracle_.count() - first, 1 + draw(40));
  const std::uint64_t count = 1 + draw(most);
  switch (draw(15)) {
    case 0:
      flush();
      break;
    case 10:
    case 11:
    case 12:
      write_encoded(first, draw(8) != 0);
      break;
    case 13:
      if (draw(2) == 0) resize((1 + draw(2 * oracle_.count())) * world_sector);
      break;
    case 14:
      if (draw(6) == 0) make_empty();
      break;
    case 1:
    case 2:
      zero(first, count);
      break;
    case 3:
    case 4:
      discard(first, count);
      break;
    case 5:
      abort_allocation(first, count);
      break;
    default:
      write(first, count);
  }
}

void qcow2_world::write(std::uint64_t first, std::uint64_t count) {
  std::vector<std::byte> data(static_cast<std::size_t>(count) * world_sector);
  for (std::uint64_t index = 0; index < count; ++index) {
    const sector_oracle::tag value = ++last_tag_;
    sector_oracle::fill(sector_of(data, index), value);
    oracle_.set(static_cast<std::size_t>(first + index), value);
  }
  expect_done(run(io_, driver_->write(first * world_sector, data)), "write");
}

void qcow2_world::write_encoded(std::uint64_t around, bool publish) {
  if (!image_->encoding()) return;
  const std::uint64_t unit_bytes = image_->encoding()->unit_bytes;
  const std::uint64_t begin = align_down(around * world_sector, unit_bytes);
  const byte_range unit = intersection({begin, unit_bytes}, {0, size_});
  std::vector<std::byte> data(static_cast<std::size_t>(unit.length));
  std::vector<sector_oracle::tag> values;
  for (std::uint64_t index = 0; index < unit.length / world_sector; ++index) {
    values.push_back(++last_tag_);
    sector_oracle::fill(sector_of(data, index), values.back());
    // Until the next flush it may or may not have arrived.
    if (publish) oracle_.may_be(static_cast<std::size_t>(begin / world_sector + index), values.back());
  }
  const result<bool> done = run(io_, driver_->write_encoded(unit, data, publish));
  if (!done) return expect_done(done.error(), "write encoded");
  for (std::uint64_t index = 0; *done && index < values.size(); ++index) {
    oracle_.set(static_cast<std::size_t>(begin / world_sector + index), values[index]);
  }
  encoded_units_ += *done ? 1 : 0;
}

void qcow2_world::resize(std::uint64_t size) {
  // What is of the present size holds it.
  if (!image_->snapshots()->list().empty()) return;
  if (image_->bitmaps() != nullptr && !image_->bitmaps()->bitmaps().empty()) return;
  const std::uint64_t old_size = size_;
  flush();
  if (!power_.on()) return;
  other_size_ = size;
  const bool zeros = has_backing_ && options_.options.at("compat") == "1.1" && draw(2) == 0;
  const outcome<void> done = run(io_, image_->resize(size, zeros ? size : 0));
  if (!done) {
    if (power_.on()) ADD_FAILURE() << "resize: " << done.error().what;
    return;
  }
  size_ = size;
  other_size_.reset();
  const std::uint64_t rounded = std::min(align_up(old_size, cluster_bytes(*image_)), size);
  std::vector<sector_oracle::tag> values(static_cast<std::size_t>(size / world_sector));
  for (std::size_t sector = 0; sector < values.size() && !zeros; ++sector)
    values[sector] = backing_tag(sector);
  oracle_.resize(values.size(), values, static_cast<std::size_t>(rounded / world_sector));
  if (rounded > old_size) zero(old_size / world_sector, (rounded - old_size) / world_sector);
}

void qcow2_world::cut_header(std::uint64_t size) {
  std::vector<std::byte> field(8);
  store_big(field.data(), size);
  disk_.load(24, field);
  size_ = size;
  oracle_.resize(static_cast<std::size_t>(size / world_sector), {}, 0);
}

void qcow2_world::make_empty() {
  flush();
  if (!power_.on()) return;
  for (std::size_t sector = 0; sector < oracle_.count(); ++sector)
    oracle_.may_be(sector, backing_tag(sector));
  const outcome<void> done = run(io_, image_->make_empty());
  if (!done) {
    if (power_.on()) ADD_FAILURE() << "make_empty: " << done.error().what;
    return;
  }
  for (std::size_t sector = 0; sector < oracle_.count(); ++sector) oracle_.set(sector, backing_tag(sector));
  oracle_.settle();
}

void qcow2_world::zero(std::uint64_t first, std::uint64_t count) {
  const zero_mode mode = draw(2) == 0 ? zero_mode::may_punch : zero_mode::keep_allocated;
  for (std::uint64_t index = 0; index < count; ++index)
    oracle_.set(static_cast<std::size_t>(first + index), 0);
  expect_done(run(io_, driver_->zero({first * world_sector, count * world_sector}, mode)), "zero");
}

void qcow2_world::discard(std::uint64_t first, std::uint64_t count) {
  const byte_range range{first * world_sector, count * world_sector};
  const byte_range whole = driver_->whole_grains(range);
  for (std::uint64_t at = whole.offset; at < whole.end(); at += world_sector) {
    oracle_.may_be(static_cast<std::size_t>(at / world_sector), 0);
  }
  const result<byte_range> discarded = run(io_, driver_->discard(range));
  if (!discarded) {
    expect_done(discarded.error(), "discard");
    return;
  }
  const std::vector<sector_oracle::tag> now = read_all(*driver_);
  for (std::uint64_t at = whole.offset; at < whole.end(); at += world_sector) {
    const auto sector = static_cast<std::size_t>(at / world_sector);
    if (power_.on()) {
      EXPECT_TRUE(now[sector] == 0 || now[sector] == oracle_.at(sector)) << "discarded sector " << sector;
      oracle_.set(sector, now[sector]);
    }
  }
}

void qcow2_world::abort_allocation(std::uint64_t first, std::uint64_t count) {
  const byte_range range{first * world_sector, count * world_sector};
  bool was_zero = false;
  {
    const result<mapping> found = run(io_, image_->map(range, map_effort::locate));
    if (!found || (found->extent.kind == extent_kind::data && found->extent.in_place)) return;
    was_zero = found->extent.kind == extent_kind::zero;
  }
  const result<allocation> reserved = run(io_, image_->allocate(range));
  if (!reserved) {
    expect_done(reserved.error(), "allocate");
    return;
  }
  // A cluster that was zeroed and kept may still be data on the disk until the next flush: what is written
  // there is then seen after a power loss, like any write under way.
  was_zero = was_zero || options_.options.contains("extended_l2") || options_.options.contains("data_file");
  for (std::uint64_t at = reserved->guest.offset; was_zero && at < reserved->guest.end();
       at += world_sector) {
    oracle_.may_be(static_cast<std::size_t>(at / world_sector), rubbish_tag);
  }
  const std::vector<std::byte> rubbish(static_cast<std::size_t>(reserved->guest.length), std::byte{0xdb});
  const result<void> wrote =
      run(io_, image_->storage_at(reserved->storage_index).write(reserved->host_offset, rubbish));
  static_cast<void>(wrote);
  expect_done(run(io_, image_->release(*reserved)), "release");
}

void qcow2_world::flush() {
  const result<void> flushed = run(io_, driver_->flush());
  expect_done(flushed, "flush");
  if (flushed && power_.on()) oracle_.settle();
}

void qcow2_world::expect_content(const char* when) {
  const std::vector<sector_oracle::tag> now = read_all(*driver_);
  for (std::size_t sector = 0; sector < now.size(); ++sector) {
    ASSERT_EQ(now[sector], oracle_.at(sector)) << "sector " << sector << " " << when;
  }
}

void qcow2_world::expect_survival(std::uint64_t survival) {
  simulated_disk survivor = disk_.after_power_loss(survival);
  simulated_disk data_survivor = data_disk_.after_power_loss(survival);
  const qcow2_report report = check_qcow2(bytes_of(survivor));
  ASSERT_TRUE(report.errors.empty()) << "after the power loss: " << report.text();
  std::unique_ptr<image> revived = open_on(survivor, data_survivor, true);
  ASSERT_NE(revived, nullptr);
  image_driver driver(*revived, backing_);
  const std::uint64_t size = revived->virtual_size();
  ASSERT_TRUE(size == size_ || other_size_ == size) << "the size is " << size;
  const std::vector<sector_oracle::tag> now = read_all(driver);
  for (std::size_t sector = 0; sector < std::min(now.size(), oracle_.count()); ++sector) {
    ASSERT_TRUE(oracle_.allows(sector, now[sector]))
        << "sector " << sector << " holds " << now[sector] << ", last written " << oracle_.at(sector);
  }
  std::vector<std::byte> all(static_cast<std::size_t>(size), std::byte{0x77});
  EXPECT_TRUE(run(io_, driver.write(0, all)).has_value());
  EXPECT_TRUE(run(io_, revived->close()).has_value());
  const qcow2_report after = check_qcow2(bytes_of(survivor));
  ASSERT_TRUE(after.errors.empty()) << "after writing again: " << after.text();
}

std::unique_ptr<image> qcow2_world::open_reader(simulated_disk& disk, const std::string& snapshot) {
  return open_on(disk, data_disk_, false, snapshot);
}

std::vector<sector_oracle::tag> qcow2_world::read_tags(image& from) {
  image_driver driver(from, backing_);
  return read_all(driver);
}

std::vector<std::byte> qcow2_world::bytes_of(const simulated_disk& disk) {
  std::vector<std::byte> bytes(static_cast<std::size_t>(disk.visible().size()));
  disk.visible().read(0, bytes);
  return bytes;
}

void qcow2_world::choose_options(const qcow2_settings& settings) {
  unsigned cluster_bits = settings.small_clusters ? 9 : 9 + static_cast<unsigned>(draw(5));
  bool v2 = draw(4) == 0;
  if (settings.subclusters || (!settings.small_clusters && draw(4) == 0)) {
    v2 = false;
    cluster_bits = 14 + static_cast<unsigned>(draw(2));
    options_.options["extended_l2"] = "on";
  }
  options_.options["cluster_size"] = std::to_string(1U << cluster_bits);
  options_.options["compat"] = v2 ? "0.10" : "1.1";
  if (!v2) options_.options["refcount_bits"] = std::to_string(1U << draw(7));
  if (!v2 && draw(2) == 0) options_.options["lazy_refcounts"] = "on";
  if (settings.widest_counts) options_.options["compat"] = "1.1";
  if (settings.widest_counts) options_.options["refcount_bits"] = "64";
  if (!v2 && draw(2) == 0) options_.options["compression_type"] = "zstd";
  size_ = (1 + draw(settings.largest_size / world_sector)) * world_sector;
  options_.virtual_size = size_;
  if (settings.data_files && !v2 && draw(3) == 0) options_.options["data_file"] = "data";
  const bool external = options_.options.contains("data_file");
  const bool raw = external && draw(2) == 0;
  if (raw) options_.options["data_file_raw"] = "on";
  has_backing_ = !raw && draw(2) == 0;
  if (has_backing_) options_.backing = backing_reference{"base.raw", "raw", false};
  // Mostly the smallest cache there is, so that slices come and go.
  cache_bytes_ = draw(3) == 0 ? std::size_t{1} << 20 : 0;
  // A data file's clusters always are COPIED.
  forgetful_ = draw(3) == 0 && !external;
  description_ = "seed " + std::to_string(settings.seed) + ", size " + std::to_string(size_) +
                 (has_backing_ ? ", backing" : "");
  for (const auto& [key, value] : options_.options) description_ += ", " + key + "=" + value;
}

void qcow2_world::make_backing() {
  if (!has_backing_) return;
  backing_.resize(static_cast<std::size_t>(draw(size_ / world_sector + 1)) * world_sector);
  for (std::size_t sector = 0; sector < backing_.size() / world_sector; ++sector) {
    sector_oracle::fill(sector_of(backing_, sector), backing_tag(sector));
  }
}

sector_oracle::tag qcow2_world::backing_tag(std::size_t sector) const {
  return sector < backing_.size() / world_sector ? (sector_oracle::tag{1} << 40) + sector : 0;
}

std::span<std::byte> qcow2_world::sector_of(std::vector<std::byte>& bytes, std::uint64_t index) {
  return std::span(bytes).subspan(static_cast<std::size_t>(index) * world_sector, world_sector);
}

data_file_opener qcow2_world::data_file_on(simulated_disk& disk) {
  return [&disk](std::string, bool) { return open_data(disk); };
}

task<outcome<std::unique_ptr<storage>>> qcow2_world::open_data(simulated_disk& disk) {
  std::unique_ptr<storage> opened = std::make_unique<simulated_storage>(disk);
  co_return opened;
}

std::unique_ptr<image> qcow2_world::open_on(simulated_disk& disk, simulated_disk& data, bool writable,
                                            const std::string& snapshot) {
  image_open_options how{
      .writable = writable, .bitmaps = care_, .snapshot = snapshot, .metadata_cache_bytes = cache_bytes_};
  how.open_data_file = data_file_on(data);
  auto opened = run(io_, qcow2_driver().open(std::make_unique<simulated_storage>(disk), std::move(how)));
  if (!opened) {
    ADD_FAILURE() << opened.error().what;
    return nullptr;
  }
  return std::move(*opened);
}

std::vector<sector_oracle::tag> qcow2_world::read_all(image_driver& driver) {
  std::vector<std::byte> all(static_cast<std::size_t>(driver.target().virtual_size()));
  const result<void> got = run(io_, driver.read(0, all));
  expect_done(got, "read");
  std::vector<sector_oracle::tag> tags(all.size() / world_sector);
  for (std::size_t sector = 0; sector < tags.size(); ++sector) {
    tags[sector] = sector_oracle::read(sector_of(all, sector));
  }
  return tags;
}

void qcow2_world::expect_done(const result<void>& done, const char* what) {
  if (power_.on()) {
    EXPECT_TRUE(done.has_value()) << what << ": " << done.error().message();
  }
}

}  // namespace weir::test
