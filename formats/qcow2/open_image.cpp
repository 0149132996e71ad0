#include "formats/qcow2/open_image.hpp"

#include "engine/base/endian.hpp"
#include "formats/qcow1/decoded_image.hpp"
#include "formats/qcow2/bitmap_directory.hpp"
#include "formats/qcow2/check_image.hpp"
#include "formats/qcow2/header.hpp"
#include "formats/qcow2/qcow2_image.hpp"

#include <boost/asio/this_coro.hpp>

#include <array>
#include <utility>
#include <vector>

namespace weir::qcow2 {
namespace {

task<outcome<header>> read_header(storage& from) {
  std::array<std::byte, first_look_bytes> first{};
  if (from.size() < first.size()) {
    co_return make_failure(errc::not_this_format, from.location(), "too short for a qcow2 image");
  }
  result<void> got = co_await from.read(0, first);
  if (!got) co_return make_failure(got.error(), from.location());
  const outcome<std::uint64_t> cluster_size = parse_cluster_size(first, from.location());
  if (!cluster_size) co_return cluster_size.error();
  std::vector<std::byte> cluster(static_cast<std::size_t>(*cluster_size));
  got = co_await from.read(0, cluster);
  if (!got) co_return make_failure(got.error(), from.location());
  co_return parse_header(cluster, from.size(), from.location());
}

outcome<void> check_writable(const header& head, storage& from) {
  if (!from.capabilities().writable) return make_failure(errc::read_only, from.location());
  if (head.has(incompatible_bit::corrupt)) {
    return make_failure(errc::corrupt_image, from.location(),
                        "marked corrupt: it can only be read until weir check -r all has repaired it");
  }
  return outcome<void>{};
}

byte_range whole_clusters(byte_range range, const geometry& shape) {
  return {range.offset, shape.offset_of(shape.clusters_for(range.length))};
}

/// The metadata the header and the L1 table name, but snapshots. L1 entries that are not sound name nothing.
void chart_metadata(image_tables& tables) {
  const header& head = tables.head;
  const geometry& shape = tables.shape;
  metadata_map& map = tables.metadata;
  map.header = {0, shape.cluster_size()};
  map.l1 = whole_clusters({head.l1_offset, head.l1_count * entry_bytes}, shape);
  map.refcount_table = {head.refcount_table_offset, shape.offset_of(head.refcount_table_clusters)};
  std::vector<std::uint64_t> l2_tables;
  for (std::uint64_t index = 0; index < tables.l1.size(); ++index) {
    const auto table = tables.l2_table(index);
    if (table && *table != 0) l2_tables.push_back(*table);
  }
  map.l2_tables = cluster_set(std::move(l2_tables));
}

/// Autoclear features that are not kept up are withdrawn before the first change.
task<result<void>> clear_autoclear(image_tables& tables, std::uint64_t kept_up) {
  const std::uint64_t left = tables.head.autoclear & kept_up;
  if (left == tables.head.autoclear) co_return result<void>{};
  std::array<std::byte, 8> bits{};
  store_big(bits.data(), left);
  result<void> cleared = co_await tables.file.write(field::autoclear, bits);
  if (cleared) cleared = co_await tables.file.flush();
  if (cleared) tables.head.autoclear = left;
  co_return cleared;
}

/// Bitmaps that nobody will keep up are as good as none.
task<outcome<void>> load_bitmaps(qcow2_image& opened, bitmap_care care) {
  if (opened.writable() && care == bitmap_care::withdraw) co_return outcome<void>{};
  const result<void> loaded = co_await opened.bitmap_side().load();
  if (!loaded) co_return make_failure(loaded.error(), opened.tables().file.location());
  if (!opened.writable() || care != bitmap_care::record) co_return outcome<void>{};
  co_return co_await opened.bitmap_side().load_recording();
}

task<outcome<void>> open_data_file(qcow2_image& opened, const image_open_options& options) {
  const image_tables& tables = opened.tables();
  if (!tables.shape.external_data) co_return outcome<void>{};
  const std::string& location = tables.file.location();
  if (!options.open_data_file) {
    co_return make_failure(errc::unsupported_feature, location,
                           "its data lies in an external data file, which is not opened here");
  }
  auto data_file = co_await options.open_data_file(tables.head.data_file, options.writable);
  if (!data_file) co_return data_file.error();
  const bool usable = !options.writable || (*data_file)->capabilities().writable;
  const std::string data_location = (*data_file)->location();
  opened.set_data_file(std::move(*data_file));
  if (usable) co_return outcome<void>{};
  co_return make_failure(errc::read_only, data_location, "the data file of " + location);
}

task<outcome<void>> prepare_writing(qcow2_image& opened, bitmap_care care) {
  image_tables& tables = opened.tables();
  const std::string& location = tables.file.location();
  if (tables.metadata.l2_tables.has_duplicates()) {
    co_return make_failure(errc::corrupt_image, location, "the L1 table names an L2 table twice");
  }
  const std::string& damage = opened.snapshot_side().damage();
  if (!damage.empty()) {
    co_return make_failure(errc::corrupt_image, damage, "it can only be read until it has been repaired");
  }
  const outcome<void> loaded = co_await opened.change_side()->load(location);
  if (!loaded) co_return loaded.error();
  const bool keeps_bitmaps = care != bitmap_care::withdraw && !opened.bitmap_side().is_damaged();
  const std::uint64_t raw = tables.head.has_raw_data_file() ? autoclear_bit::raw_data_file : 0;
  const std::uint64_t kept_up = raw | (keeps_bitmaps ? bitmaps_bit : 0);
  const result<void> cleared = co_await clear_autoclear(tables, kept_up);
  if (!cleared) co_return make_failure(cleared.error(), location);
  co_return outcome<void>{};
}

/// The L1 table of the current state, or of a snapshot.
task<outcome<void>> load_tables(qcow2_image& opened, std::string snapshot) {
  image_tables& tables = opened.tables();
  result<void> loaded = co_await opened.snapshot_side().load();
  if (loaded && snapshot.empty()) loaded = co_await tables.l1.load(tables.file, tables.head.l1_count);
  if (!loaded) co_return make_failure(loaded.error(), tables.file.location());
  outcome<void> shown;
  if (!snapshot.empty()) shown = co_await opened.snapshot_side().show(std::move(snapshot));
  if (shown) chart_metadata(tables);
  co_return shown;
}

outcome<void> check_key(const header& head, const storage& from, const image_open_options& options) {
  if (head.crypt_method != aes_encryption) return outcome<void>{};
  if (options.writable)
    return make_failure(errc::read_only, from.location(), "images encrypted with AES are only read");
  if (!options.snapshot.empty()) {
    return make_failure(errc::unsupported_feature, from.location(),
                        "of images encrypted with AES only the current state is read");
  }
  if (head.shape.external_data) {
    return make_failure(errc::unsupported_feature, from.location(),
                        "encryption (AES) of an external data file is not supported");
  }
  if (options.passphrase) return outcome<void>{};
  return make_failure(errc::unsupported_feature, from.location(),
                      "it is encrypted (AES): --passphrase-file names the passphrase");
}

task<outcome<header>> examine(storage& from, const image_open_options& options) {
  outcome<header> head = co_await read_header(from);
  if (!head) co_return head;
  const outcome<void> has_key = check_key(*head, from, options);
  if (!has_key) co_return has_key.error();
  if (!options.writable) co_return head;
  const outcome<void> sound = check_writable(*head, from);
  if (!sound) co_return sound.error();
  if (!head->has(incompatible_bit::dirty)) co_return head;
  const outcome<void> recovered = co_await recover_counts(from, *head);
  if (!recovered) co_return recovered.error();
  co_return co_await read_header(from);
}

}  // namespace

task<outcome<std::unique_ptr<image>>> open_image(std::unique_ptr<storage> from, image_open_options options) {
  const executor context = co_await boost::asio::this_coro::executor;
  const outcome<header> head = co_await examine(*from, options);
  if (!head) {
    const result<void> ignored = co_await from->close();
    static_cast<void>(ignored);
    co_return head.error();
  }
  auto opened = std::make_unique<qcow2_image>(context, std::move(from), *head, options.writable,
                                              options.metadata_cache_bytes);
  image_tables& tables = opened->tables();
  outcome<void> ready = co_await load_tables(*opened, options.snapshot);
  if (ready) ready = co_await open_data_file(*opened, options);
  if (ready) ready = co_await load_bitmaps(*opened, options.bitmaps);
  if (ready && options.writable) ready = co_await prepare_writing(*opened, options.bitmaps);
  if (!ready) {
    result<void> ignored = co_await tables.file.close();
    if (tables.data_file != nullptr) ignored = co_await tables.data_file->close();
    static_cast<void>(ignored);
    co_return ready.error();
  }
  std::unique_ptr<image> made = std::move(opened);
  if (head->crypt_method != aes_encryption) co_return made;
  co_return co_await qcow1::read_by_library(std::move(made), options.passphrase);
}

}  // namespace weir::qcow2
