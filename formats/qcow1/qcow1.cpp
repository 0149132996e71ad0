#include "formats/qcow1/qcow1.hpp"

#include "formats/qcow1/decoded_image.hpp"
#include "formats/qcow1/header.hpp"
#include "formats/qcow1/qcow1_image.hpp"

#include <boost/asio/this_coro.hpp>

#include <algorithm>
#include <array>
#include <span>
#include <utility>

namespace weir::qcow1 {
namespace {

struct opened_header {
  header fields;
  std::optional<backing_reference> backing;
};

task<outcome<opened_header>> read_header(storage& file) {
  std::array<std::byte, header_bytes> bytes{};
  const auto head = std::span(bytes).first(std::min<std::uint64_t>(bytes.size(), file.size()));
  const result<void> got = co_await file.read(0, head);
  if (!got) co_return make_failure(got.error(), file.location());
  const outcome<header> fields = parse_header(head, file.size(), file.location());
  if (!fields) co_return fields.error();
  opened_header opened{*fields, std::nullopt};
  if (fields->backing_name.empty()) co_return opened;
  std::string name(static_cast<std::size_t>(fields->backing_name.length), '\0');
  const result<void> named =
      co_await file.read(fields->backing_name.offset, std::as_writable_bytes(std::span(name)));
  if (!named) co_return make_failure(named.error(), file.location());
  if (name.contains('\0')) {
    co_return make_failure(errc::corrupt_image, file.location(), "the backing file name contains a NUL");
  }
  opened.backing = backing_reference{.name = std::move(name), .format = {}};
  co_return opened;
}

outcome<void> admit(const header& fields, const storage& file, const image_open_options& options) {
  if (options.writable) {
    return make_failure(errc::read_only, file.location(), "images of qcow version 1 are only read");
  }
  if (fields.is_encrypted && !options.passphrase) {
    return make_failure(errc::unsupported_feature, file.location(),
                        "it is encrypted (AES): --passphrase-file names the passphrase");
  }
  if (fields.is_encrypted && !fields.has_cluster_tables()) {
    return make_failure(
        errc::unsupported_feature, file.location(),
        "it is encrypted, and its L2 tables are not one cluster long, as QEMU makes them in overlays: "
        "libqcow misreads these; qemu-img convert makes another format of it");
  }
  return outcome<void>{};
}

task<outcome<std::unique_ptr<qcow1_image>>> open_mapped(std::unique_ptr<storage> from,
                                                        image_open_options options) {
  outcome<opened_header> opened = co_await read_header(*from);
  const outcome<void> usable = opened ? admit(opened->fields, *from, options) : outcome<void>(opened.error());
  if (!usable) {
    const result<void> ignored = co_await from->close();
    static_cast<void>(ignored);
    co_return usable.error();
  }
  const executor context = co_await boost::asio::this_coro::executor;
  co_return std::make_unique<qcow1_image>(context, std::move(from), opened->fields,
                                          std::move(opened->backing), options.metadata_cache_bytes);
}

task<outcome<std::unique_ptr<image>>> open_image(std::unique_ptr<storage> from, image_open_options options) {
  auto mapped = co_await open_mapped(std::move(from), options);
  if (!mapped) co_return mapped.error();
  const header fields = (*mapped)->parsed();
  std::unique_ptr<image> made = std::move(*mapped);
  if (!fields.has_cluster_tables()) co_return made;
  // A key for an image that is not encrypted is another layer's.
  co_return co_await read_by_library(std::move(made), fields.is_encrypted ? options.passphrase : nullptr);
}

}  // namespace

task<outcome<std::unique_ptr<image>>> open_map(std::unique_ptr<storage> from, image_open_options options) {
  auto mapped = co_await open_mapped(std::move(from), options);
  if (!mapped) co_return mapped.error();
  co_return std::unique_ptr<image>(std::move(*mapped));
}

}  // namespace weir::qcow1

namespace weir {

format_driver qcow1_driver() {
  return {.name = "qcow", .can_have_backing = true, .probe = &qcow1::has_magic, .open = &qcow1::open_image};
}

}  // namespace weir
