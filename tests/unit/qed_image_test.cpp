#include "engine/base/endian.hpp"
#include "engine/storage/simulated_disk.hpp"
#include "engine/storage/simulated_storage.hpp"
#include "formats/qed/header.hpp"
#include "formats/qed/qed.hpp"
#include "tests/support/image_driver.hpp"
#include "tests/support/run_task.hpp"

#include <boost/asio/io_context.hpp>
#include <gtest/gtest.h>

#include <array>
#include <cerrno>
#include <vector>

namespace weir {
namespace {

using test::image_driver;
using test::run;

constexpr std::uint64_t cluster = 4 * KiB;
constexpr std::uint64_t table_span = 2 * MiB;  // one-cluster tables
constexpr std::uint64_t l1_offset = cluster;

std::vector<std::byte> filled(std::size_t length, int value) {
  return std::vector<std::byte>(length, static_cast<std::byte>(value));
}

class qed_image_test : public testing::Test {
 protected:
  ~qed_image_test() override { close(); }

  void create(std::uint64_t size, std::optional<backing_reference> backing = {}) {
    image_create_options options{size, std::move(backing), {{"cluster_size", "4K"}, {"table_size", "1"}}};
    simulated_storage file(disk_);
    run(io_, qed_driver().create(file, options)).value();
  }
  outcome<std::unique_ptr<image>> try_open(bool writable = true) {
    return run(io_, qed_driver().open(std::make_unique<simulated_storage>(disk_), {.writable = writable}));
  }
  void open(bool writable = true) { image_ = try_open(writable).value(); }
  void close() {
    if (image_) run(io_, image_->close()).value();
    image_.reset();
  }
  /// Damage behind the image's back.
  void poke(std::uint64_t offset, std::uint64_t value) {
    disk_.settle_all();
    std::array<std::byte, 8> bytes;
    store_little(bytes.data(), value);
    disk_.load(offset, bytes);
  }
  std::uint64_t peek(std::uint64_t offset, const sparse_bytes& in) const {
    std::array<std::byte, 8> bytes;
    in.read(offset, bytes);
    return load_little<std::uint64_t>(bytes.data());
  }
  std::uint64_t peek(std::uint64_t offset) const { return peek(offset, disk_.visible()); }
  void write(std::uint64_t offset, const std::vector<std::byte>& data) {
    image_driver driver(*image_);
    run(io_, driver.write(offset, data)).value();
  }
  std::vector<std::byte> read(std::uint64_t offset, std::size_t length,
                              std::span<const std::byte> backing = {}) {
    std::vector<std::byte> bytes(length);
    image_driver driver(*image_, backing);
    run(io_, driver.read(offset, bytes)).value();
    return bytes;
  }
  result<extent> map(byte_range range) {
    const auto found = run(io_, image_->map(range, map_effort::locate));
    if (!found) return found.error();
    return found->extent;
  }
  void flush() { run(io_, image_->flush()).value(); }

  boost::asio::io_context io_;
  simulated_disk disk_;
  std::unique_ptr<image> image_;
};

TEST_F(qed_image_test, an_empty_image_is_unallocated_across_tables) {
  create(10 * MiB);
  open();
  const auto found = map({100, 10 * MiB - 100});
  ASSERT_TRUE(found);
  EXPECT_EQ(found->kind, extent_kind::unallocated);
  EXPECT_EQ(found->length, 10 * MiB - 100);
}

TEST_F(qed_image_test, cached_lookups_need_no_io) {
  create(10 * MiB);
  open();
  EXPECT_FALSE(image_->try_map({0, cluster}, map_effort::locate));
  write(0, filled(3 * cluster, 1));
  const auto found = image_->try_map({cluster + 5, 9 * cluster}, map_effort::locate);
  ASSERT_TRUE(found && *found);
  EXPECT_EQ((*found)->extent.kind, extent_kind::data);
  EXPECT_TRUE((*found)->extent.in_place);
  EXPECT_EQ((*found)->extent.length, 2 * cluster - 5) << "contiguous clusters are one run";
}

TEST_F(qed_image_test, a_long_request_gets_contiguous_clusters) {
  create(10 * MiB);
  open();
  const auto whole = run(io_, image_->allocate({100, MiB})).value();
  EXPECT_EQ(whole.guest, (byte_range{0, MiB + cluster}));
  EXPECT_EQ(whole.head, (byte_range{0, 100}));
  EXPECT_EQ(whole.tail, range_between(MiB + 100, MiB + cluster));
  EXPECT_TRUE(whole.host_is_zero);
  run(io_, image_->release(whole)).value();
  const auto again = run(io_, image_->allocate({0, cluster})).value();
  EXPECT_EQ(again.host_offset, whole.host_offset) << "the end of the file is handed out again";
  EXPECT_FALSE(again.host_is_zero) << "whoever had it may have written there";
  run(io_, image_->release(again)).value();
}

TEST_F(qed_image_test, an_allocation_stops_where_data_begins) {
  create(10 * MiB);
  open();
  write(3 * cluster, filled(cluster, 1));
  const auto reserved = run(io_, image_->allocate({0, MiB})).value();
  EXPECT_EQ(reserved.guest, (byte_range{0, 3 * cluster}));
  run(io_, image_->release(reserved)).value();
}

TEST_F(qed_image_test, the_last_cluster_is_clipped_to_the_disk) {
  create(table_span + 512);
  open();
  const auto reserved = run(io_, image_->allocate({table_span, 512})).value();
  EXPECT_EQ(reserved.guest, (byte_range{table_span, 512}));
  EXPECT_TRUE(reserved.tail.empty());
  run(io_, image_->release(reserved)).value();
  write(table_span, filled(512, 3));
  close();
  EXPECT_TRUE(is_aligned(disk_.size(), cluster)) << "an entry never points past the end of the file";
  open();
  EXPECT_EQ(read(table_span, 512), filled(512, 3));
}

TEST_F(qed_image_test, zero_hides_the_backing_image_even_after_a_partial_write) {
  create(10 * MiB, backing_reference{"b", "raw", false});
  open();
  const std::vector<std::byte> backing = filled(10 * MiB, 9);
  run(io_, image_->zero({0, 2 * cluster}, zero_mode::may_punch)).value();
  EXPECT_EQ(map({0, 2 * cluster})->kind, extent_kind::zero);
  image_driver driver(*image_, backing);
  run(io_, driver.write(100, filled(10, 4))).value();
  EXPECT_EQ(read(0, 100, backing), filled(100, 0));
  EXPECT_EQ(read(110, 2 * cluster - 110, backing), filled(2 * cluster - 110, 0));
  EXPECT_EQ(read(2 * cluster, 10, backing), filled(10, 9));
}

TEST_F(qed_image_test, discard_zeroes_data_and_leaves_the_unallocated_alone) {
  create(10 * MiB, backing_reference{"b", "raw", false});
  open();
  write(cluster, filled(cluster, 5));
  const std::uint64_t size = disk_.size();
  run(io_, image_->discard({0, 10 * MiB})).value();
  EXPECT_EQ(map({0, cluster})->kind, extent_kind::unallocated);
  EXPECT_EQ(map({cluster, cluster})->kind, extent_kind::zero);
  EXPECT_EQ(disk_.size(), size) << "no tables were added";
}

TEST_F(qed_image_test, need_check_is_durable_before_the_first_allocation_and_cleared_by_close) {
  create(10 * MiB);
  open();
  EXPECT_EQ(peek(16) & qed::feature::need_check, 0U);
  const auto reserved = run(io_, image_->allocate({0, cluster})).value();
  EXPECT_NE(peek(16, disk_.durable()) & qed::feature::need_check, 0U);
  run(io_, image_->release(reserved)).value();
  close();
  EXPECT_EQ(peek(16, disk_.durable()) & qed::feature::need_check, 0U);
}

TEST_F(qed_image_test, a_failed_flush_keeps_everything_for_the_next) {
  create(10 * MiB);
  open();
  write(0, filled(cluster, 3));
  disk_.inject({.operation = disk_operation::flush});
  EXPECT_EQ(run(io_, image_->flush()).error(), errno_code(EIO));
  flush();
  simulated_disk survivor = disk_.after_power_loss(0);
  auto opened = run(io_, qed_driver().open(std::make_unique<simulated_storage>(survivor), {}));
  EXPECT_EQ(run(io_, (*opened)->map({0, 512}, map_effort::locate))->extent.kind, extent_kind::data);
  run(io_, (*opened)->close()).value();
}

TEST_F(qed_image_test, a_close_that_cannot_flush_leaves_the_need_check_bit) {
  create(10 * MiB);
  open();
  write(0, filled(cluster, 3));
  disk_.inject({.operation = disk_operation::flush});
  EXPECT_EQ(run(io_, image_->close()).error(), errno_code(EIO));
  image_.reset();
  EXPECT_NE(peek(16) & qed::feature::need_check, 0U);
}

TEST_F(qed_image_test, a_clean_image_opened_and_closed_is_not_written) {
  create(10 * MiB);
  power_supply power;
  simulated_disk watched = disk_.after_power_loss(1, power);
  auto opened = run(io_, qed_driver().open(std::make_unique<simulated_storage>(watched), {.writable = true}));
  run(io_, (*opened)->close()).value();
  EXPECT_EQ(watched.unsynced_count(), 0U);
}

TEST_F(qed_image_test, unknown_autoclear_bits_are_cleared_by_writers_only) {
  create(10 * MiB);
  poke(32, 0x8001);
  open(false);
  close();
  EXPECT_EQ(peek(32), 0x8001U);
  open();
  EXPECT_EQ(peek(32, disk_.durable()), 0U);
}

TEST_F(qed_image_test, compatible_bits_survive_header_changes) {
  create(10 * MiB);
  poke(24, 0xabc);
  open();
  write(0, filled(512, 1));
  run(io_, image_->set_backing(backing_reference{"x", "", false})).value();
  close();
  EXPECT_EQ(peek(24), 0xabcU);
}

TEST_F(qed_image_test, set_backing_is_durable_with_everything_published) {
  create(10 * MiB);
  open();
  const std::uint64_t epoch = image_->epoch();
  write(0, filled(512, 1));
  run(io_, image_->set_backing(backing_reference{"dir/base.raw", "raw", false})).value();
  EXPECT_NE(image_->epoch(), epoch);
  EXPECT_EQ(image_->backing(), (backing_reference{"dir/base.raw", "raw", false}));
  simulated_disk survivor = disk_.after_power_loss(0);
  auto opened = run(io_, qed_driver().open(std::make_unique<simulated_storage>(survivor), {}));
  ASSERT_TRUE(opened);
  EXPECT_EQ((*opened)->backing(), (backing_reference{"dir/base.raw", "raw", false}));
  EXPECT_EQ(run(io_, (*opened)->map({0, 512}, map_effort::locate))->extent.kind, extent_kind::data);
  run(io_, (*opened)->close()).value();
}

TEST_F(qed_image_test, set_backing_keeps_the_bits_right_and_can_be_undone) {
  create(10 * MiB, backing_reference{"old", "raw", false});
  open();
  run(io_, image_->set_backing(backing_reference{std::string(1023, 'n'), "qcow2", false})).value();
  EXPECT_EQ(image_->backing(), (backing_reference{std::string(1023, 'n'), "", true}));
  close();
  open();
  EXPECT_EQ(image_->backing(), (backing_reference{std::string(1023, 'n'), "", true}));
  run(io_, image_->set_backing(std::nullopt)).value();
  EXPECT_FALSE(image_->backing());
  close();
  EXPECT_EQ(peek(16), 0U);
  EXPECT_EQ(peek(56), 0U);
}

TEST_F(qed_image_test, set_backing_refuses_names_that_cannot_be_recorded) {
  create(10 * MiB);
  open();
  EXPECT_EQ(run(io_, image_->set_backing(backing_reference{std::string(1024, 'n'), "", false})).error(),
            errc::name_too_long);
  EXPECT_EQ(run(io_, image_->set_backing(backing_reference{"", "", false})).error(), errno_code(EINVAL));
  EXPECT_EQ(run(io_, image_->set_backing(backing_reference{std::string("a\0b", 3), "", false})).error(),
            errno_code(EINVAL));
}

TEST_F(qed_image_test, a_power_loss_during_set_backing_leaves_the_old_name_or_the_new) {
  const std::string old_name(900, 'o');
  const std::string new_name(1000, 'n');
  for (std::uint64_t cut = 0;; ++cut) {
    power_supply power;
    simulated_disk disk(0, power);
    {
      simulated_storage file(disk);
      image_create_options options{MiB, backing_reference{old_name, "raw", false}, {{"cluster_size", "4K"}}};
      run(io_, qed_driver().create(file, options)).value();
    }
    auto opened = run(io_, qed_driver().open(std::make_unique<simulated_storage>(disk), {.writable = true}));
    power.cut_after(cut);
    const bool done = run(io_, (*opened)->set_backing(backing_reference{new_name, "", false})).has_value();
    static_cast<void>(run(io_, (*opened)->close()));
    for (std::uint64_t seed = 0; seed < 16; ++seed) {
      simulated_disk survivor = disk.after_power_loss(seed);
      auto again = run(io_, qed_driver().open(std::make_unique<simulated_storage>(survivor), {}));
      ASSERT_TRUE(again) << "cut " << cut << " seed " << seed;
      const backing_reference found = (*again)->backing().value();
      const bool is_new = found == backing_reference{new_name, "", true};
      EXPECT_TRUE(is_new || (!done && found == backing_reference{old_name, "raw", false}))
          << "cut " << cut << " seed " << seed << ": " << found.name;
      run(io_, (*again)->close()).value();
    }
    if (done) break;
  }
}

// Hostile images

TEST_F(qed_image_test, a_bad_l1_entry_fails_its_range_only_and_forbids_writing) {
  create(10 * MiB);
  open();
  write(table_span, filled(512, 7));
  close();
  for (const std::uint64_t entry : {std::uint64_t{1}, std::uint64_t{4097}, std::uint64_t{0} + l1_offset,
                                    std::uint64_t{0x40000000}, ~std::uint64_t{4095}}) {
    poke(l1_offset, entry);
    const auto refused = try_open(true);
    ASSERT_FALSE(refused) << entry;
    EXPECT_EQ(refused.error().code, make_error_code(errc::corrupt_image));
    open(false);
    EXPECT_EQ(map({0, 512}).error(), make_error_code(errc::corrupt_image)) << entry;
    EXPECT_EQ(read(table_span, 512), filled(512, 7));
    close();
  }
}

TEST_F(qed_image_test, two_l1_entries_on_one_table_fail_and_forbid_writing) {
  create(10 * MiB);
  open();
  write(table_span, filled(512, 7));
  close();
  poke(l1_offset, peek(l1_offset + 8));
  EXPECT_FALSE(try_open(true));
  open(false);
  EXPECT_EQ(map({0, 512}).error(), make_error_code(errc::corrupt_image));
  EXPECT_EQ(map({table_span, 512}).error(), make_error_code(errc::corrupt_image));
}

TEST_F(qed_image_test, an_l2_entry_into_metadata_or_nowhere_is_never_written_through) {
  create(10 * MiB);
  open();
  write(0, filled(2 * cluster, 7));
  close();
  const std::uint64_t table = peek(l1_offset);
  const std::uint64_t sound = peek(table + 8);
  for (const std::uint64_t entry :
       {std::uint64_t{2}, sound + 512, std::uint64_t{l1_offset}, table, disk_.size(), ~std::uint64_t{4095}}) {
    poke(table, entry);
    open(true);
    EXPECT_EQ(map({0, 512}).error(), make_error_code(errc::corrupt_image)) << entry;
    EXPECT_EQ(run(io_, image_->allocate({0, 512})).error(), make_error_code(errc::corrupt_image)) << entry;
    EXPECT_EQ(map({cluster, 512})->host_offset, sound);
    close();
  }
}

TEST_F(qed_image_test, an_entry_past_the_end_does_not_come_to_name_a_later_table) {
  create(10 * MiB);
  open();
  write(0, filled(cluster, 7));
  close();
  const std::uint64_t table = peek(l1_offset);
  poke(table + 8, disk_.size());
  open(true);
  EXPECT_EQ(map({cluster, 512}).error(), make_error_code(errc::corrupt_image));
  write(table_span, filled(cluster, 8));
  flush();
  ASSERT_EQ(peek(table + 8), peek(l1_offset + 8)) << "the entry now names the new table";
  EXPECT_EQ(map({cluster, 512}).error(), make_error_code(errc::corrupt_image));
}

TEST_F(qed_image_test, after_an_unclean_shutdown_leaks_are_fine_and_the_bit_is_cleared) {
  create(10 * MiB);
  open();
  write(0, filled(2 * cluster, 7));
  run(io_, image_->zero({0, cluster}, zero_mode::may_punch)).value();
  close();
  poke(16, qed::feature::need_check);
  open(false);
  close();
  EXPECT_EQ(peek(16), qed::feature::need_check) << "a reader leaves it alone";
  open(true);
  EXPECT_EQ(peek(16, disk_.durable()), 0U);
  EXPECT_EQ(read(cluster, cluster), filled(cluster, 7));
}

TEST_F(qed_image_test, after_an_unclean_shutdown_inconsistent_tables_forbid_writing) {
  create(10 * MiB);
  open();
  write(0, filled(2 * cluster, 7));
  write(table_span, filled(cluster, 8));
  close();
  const std::uint64_t table = peek(l1_offset);
  const std::uint64_t sound = peek(table);
  poke(16, qed::feature::need_check);
  for (const std::uint64_t entry :
       {peek(table + 8), peek(peek(l1_offset + 8)), sound + 1, disk_.size(), table}) {
    poke(table, entry);
    const auto refused = try_open(true);
    ASSERT_FALSE(refused) << entry;
    EXPECT_EQ(refused.error().code, make_error_code(errc::corrupt_image));
    EXPECT_NE(refused.error().what.find("L2 entry"), std::string::npos) << refused.error().what;
    open(false);
    close();
  }
  EXPECT_EQ(peek(16), qed::feature::need_check);
}

TEST_F(qed_image_test, a_name_with_nul_is_refused) {
  create(10 * MiB, backing_reference{"abcdefgh", "raw", false});
  poke(64, 0x6100'6161);
  EXPECT_EQ(try_open(false).error().code, make_error_code(errc::corrupt_image));
}

TEST_F(qed_image_test, what_cannot_grow_is_written_in_place_and_else_full) {
  create(10 * MiB);
  open();
  write(0, filled(cluster, 7));
  close();
  simulated_storage_options options;
  options.capabilities.can_grow = false;
  image_ =
      run(io_, qed_driver().open(std::make_unique<simulated_storage>(disk_, options), {.writable = true}))
          .value();
  write(10, filled(10, 8));
  EXPECT_EQ(run(io_, image_->allocate({cluster, 512})).error(), errno_code(ENOSPC));
  EXPECT_EQ(run(io_, image_->zero({table_span, cluster}, zero_mode::may_punch)).error(), errno_code(ENOSPC));
  run(io_, image_->zero({cluster, cluster}, zero_mode::may_punch)).value();
  EXPECT_EQ(map({cluster, cluster})->kind, extent_kind::zero);
}

TEST_F(qed_image_test, a_small_cache_holds_few_slices_whatever_is_zeroed) {
  create(300 * MiB);
  image_ = run(io_, qed_driver().open(std::make_unique<simulated_storage>(disk_),
                                      {.writable = true, .metadata_cache_bytes = 64 * KiB}))
               .value();
  run(io_, image_->zero({0, 300 * MiB}, zero_mode::may_punch)).value();
  for (std::uint64_t offset = 0; offset < 300 * MiB; offset += table_span) {
    ASSERT_EQ(map({offset, cluster})->kind, extent_kind::zero) << offset;
  }
  EXPECT_GT(peek(peek(l1_offset, disk_.durable()), disk_.durable()), 0U)
      << "a crowded cache is flushed on the way";
}

TEST(qed_create, refuses_what_qed_does_not_have_by_name) {
  boost::asio::io_context io;
  const auto create = [&io](image_create_options options) {
    simulated_disk disk;
    simulated_storage file(disk);
    const auto made = run(io, qed_driver().create(file, std::move(options)));
    EXPECT_TRUE(made || disk.size() == 0) << "nothing is left of a refused image";
    return made ? std::string() : made.error().what;
  };
  EXPECT_EQ(create({MiB, {}, {}}), "");
  EXPECT_NE(create({MiB, {}, {{"compat", "1.1"}}}).find("compat"), std::string::npos);
  EXPECT_NE(create({MiB, {}, {{"cluster_size", "3K"}}}).find("3072"), std::string::npos);
  EXPECT_NE(create({MiB, {}, {{"cluster_size", "many"}}}).find("many"), std::string::npos);
  EXPECT_NE(create({MiB, {}, {{"table_size", "5"}}}).find("table size 5"), std::string::npos);
  EXPECT_NE(create({GiB + 512, {}, {{"cluster_size", "4K"}, {"table_size", "1"}}}).find("1073741824"),
            std::string::npos);
  EXPECT_NE(create({MiB, backing_reference{std::string(1024, 'x'), "", false}, {}}).find("1023"),
            std::string::npos);
}

}  // namespace
}  // namespace weir
