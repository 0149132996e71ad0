// A read-only image whose clusters weir maps itself and libqcow reads: encrypted ones, and those of qcow version 1.
//
// The inner image answers what is allocated, from weir's own checked tables; what it calls data or encoded becomes data
// of a second storage (library_storage), in which guest offsets are positions. So libqcow is only ever asked for
// clusters that exist and lie in the file, and backing layers, zero clusters and the ends of images never reach it.
#pragma once

#include "engine/block/image.hpp"
#include "formats/qcow1/library_storage.hpp"
#include "formats/qcow1/read_only_image.hpp"

#include <memory>
#include <string>

namespace weir::qcow1 {

/// The storage of decoded data; 0 is the image file. Positions in it are no positions in a file.
inline constexpr std::uint8_t decoded_storage_index = 255;

class decoded_image final : public read_only_image {
 public:
  decoded_image(std::unique_ptr<image> mapped, std::unique_ptr<library_storage> content);

  std::string_view format() const noexcept override { return mapped_->format(); }
  std::uint64_t virtual_size() const noexcept override { return mapped_->virtual_size(); }
  std::uint64_t grain() const noexcept override { return mapped_->grain(); }
  const std::optional<backing_reference>& backing() const noexcept override { return mapped_->backing(); }
  std::vector<image_fact> facts() const override { return mapped_->facts(); }
  storage& storage_at(std::uint8_t index) noexcept override;

 private:
  task<result<extent>> do_map(byte_range range, map_effort effort) override;
  std::optional<result<extent>> do_try_map(byte_range range, map_effort effort) override;
  task<result<void>> do_close() override;

  std::unique_ptr<image> mapped_;
  std::unique_ptr<library_storage> content_;
};

/// `mapped` with its content read by libqcow; `passphrase` (may be null) becomes the AES key as QEMU makes it: its
/// first 16 bytes, padded with zeros. Closes `mapped` on failure. Failures name the image.
task<outcome<std::unique_ptr<image>>> read_by_library(std::unique_ptr<image> mapped,
                                                      std::shared_ptr<const std::string> passphrase);

}  // namespace weir::qcow1
