#include "formats/qcow1/decoded_image.hpp"

#include <boost/asio/this_coro.hpp>

#include <algorithm>
#include <utility>

namespace weir::qcow1 {
namespace {

extent decoded(const extent& mapped, std::uint64_t guest_offset) {
  if (mapped.kind != extent_kind::data && mapped.kind != extent_kind::encoded) return mapped;
  extent made;
  made.kind = extent_kind::data;
  made.storage_index = decoded_storage_index;
  made.length = mapped.length;
  made.host_offset = guest_offset;
  return made;
}

reader_setup setup_for(const image& mapped, const std::string* passphrase) {
  reader_setup setup;
  setup.virtual_size = mapped.virtual_size();
  setup.cluster_bytes = static_cast<std::uint32_t>(mapped.grain());
  if (passphrase == nullptr) return setup;
  setup.has_key = 1;
  const std::size_t length = std::min(passphrase->size(), setup.key.size());
  std::copy_n(passphrase->begin(), length, setup.key.begin());
  return setup;
}

}  // namespace

decoded_image::decoded_image(std::unique_ptr<image> mapped, std::unique_ptr<library_storage> content)
    : mapped_(std::move(mapped)), content_(std::move(content)) {}

storage& decoded_image::storage_at(std::uint8_t index) noexcept {
  if (index == decoded_storage_index) return *content_;
  return mapped_->storage_at(index);
}

task<result<extent>> decoded_image::do_map(byte_range range, map_effort effort) {
  const result<mapping> found = co_await mapped_->map(range, effort);
  if (!found) co_return found.error();
  co_return decoded(found->extent, range.offset);
}

std::optional<result<extent>> decoded_image::do_try_map(byte_range range, map_effort effort) {
  const std::optional<result<mapping>> found = mapped_->try_map(range, effort);
  if (!found) return std::nullopt;
  if (!*found) return found->error();
  return decoded((*found)->extent, range.offset);
}

task<result<void>> decoded_image::do_close() {
  const result<void> stopped = co_await content_->close();
  const result<void> closed = co_await mapped_->close();
  co_return stopped ? closed : stopped;
}

task<outcome<std::unique_ptr<image>>> read_by_library(std::unique_ptr<image> mapped,
                                                      std::shared_ptr<const std::string> passphrase) {
  storage& file = mapped->storage_at(0);
  if (!file.descriptor()) {
    const failure why =
        make_failure(errc::unsupported_feature, file.location(),
                     "images of this kind are read by a helper from the file itself: it must be "
                     "a local file, not a slice of one, opened with cache mode writeback");
    const result<void> ignored = co_await mapped->close();
    static_cast<void>(ignored);
    co_return why;
  }
  const executor context = co_await boost::asio::this_coro::executor;
  const reader_setup setup = setup_for(*mapped, passphrase.get());
  auto content = std::make_unique<library_storage>(context, file, setup);
  std::unique_ptr<image> opened = std::make_unique<decoded_image>(std::move(mapped), std::move(content));
  co_return opened;
}

}  // namespace weir::qcow1
