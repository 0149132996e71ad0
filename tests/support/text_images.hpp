// Images whose whole file is a line of text, for tests of what chains are made of: "COW1 name|format|probe" is a format
// with a backing image (an empty name: none), "QD01 …" one that states raw explicitly, anything else is raw.
#pragma once

#include "engine/block/format_table.hpp"
#include "engine/block/open_chain.hpp"

#include <array>
#include <cstring>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace weir::test {

class text_storage final : public storage {
 public:
  text_storage(std::string location, std::string text, std::uint64_t inode, bool writable, int& open_count)
      : location_(std::move(location)), text_(std::move(text)), inode_(inode), open_count_(open_count) {
    capabilities_.writable = writable;
    ++open_count_;
  }

  const std::string& location() const noexcept override { return location_; }
  const storage_capabilities& capabilities() const noexcept override { return capabilities_; }
  std::uint64_t size() const noexcept override { return text_.size(); }
  std::optional<int> descriptor() const noexcept override { return std::nullopt; }
  void note_descriptor_write(byte_range) noexcept override {}
  std::optional<identity_type> identity() const noexcept override {
    if (inode_ == 0) return std::nullopt;
    return identity_type{1, inode_};
  }

 private:
  task<result<void>> do_read(std::uint64_t offset, std::span<std::byte> buffer) override {
    std::ranges::fill(buffer, std::byte{0});
    const std::size_t length =
        std::min<std::size_t>(buffer.size(), text_.size() - std::min<std::size_t>(offset, text_.size()));
    if (length != 0) std::memcpy(buffer.data(), text_.data() + offset, length);
    co_return result<void>{};
  }
  task<result<void>> do_write(std::uint64_t, std::span<const std::byte>) override { return refuse(); }
  task<result<void>> do_flush() override { co_return result<void>{}; }
  task<result<void>> do_zero(byte_range, zero_mode) override { return refuse(); }
  task<result<void>> do_discard(byte_range) override { return refuse(); }
  task<result<void>> do_truncate(std::uint64_t) override { return refuse(); }
  task<result<storage_run>> do_status(byte_range range) override {
    co_return storage_run{range.length, false};
  }
  task<result<void>> do_close() override {
    --open_count_;
    co_return result<void>{};
  }
  static task<result<void>> refuse() { co_return errc::not_supported; }

  std::string location_;
  std::string text_;
  std::uint64_t inode_;
  int& open_count_;
  storage_capabilities capabilities_;
};

class text_image final : public image {
 public:
  text_image(std::string_view format, std::unique_ptr<storage> from, std::optional<backing_reference> backing,
             bool writable)
      : format_(format), from_(std::move(from)), backing_(std::move(backing)), writable_(writable) {}

  std::string_view format() const noexcept override { return format_; }
  std::uint64_t virtual_size() const noexcept override { return from_->size(); }
  std::uint64_t grain() const noexcept override { return 1; }
  bool writable() const noexcept override { return writable_; }
  bool zeroes_fast() const noexcept override { return false; }
  const std::optional<backing_reference>& backing() const noexcept override { return backing_; }
  std::vector<image_fact> facts() const override { return {}; }
  snapshot_store* snapshots() noexcept override { return nullptr; }
  bitmap_store* bitmaps() noexcept override { return nullptr; }
  std::optional<unit_encoding> encoding() const noexcept override { return std::nullopt; }
  storage& storage_at(std::uint8_t) noexcept override { return *from_; }

 private:
  task<result<extent>> do_map(byte_range range, map_effort) override {
    extent all;
    all.kind = extent_kind::data;
    all.length = range.length;
    all.host_offset = range.offset;
    co_return all;
  }
  std::optional<result<extent>> do_try_map(byte_range, map_effort) override { return std::nullopt; }
  task<result<allocation>> do_allocate(byte_range) override { co_return errc::not_supported; }
  task<result<allocation>> do_allocate_encoded(byte_range, std::uint64_t) override {
    co_return errc::not_supported;
  }
  task<result<void>> do_publish(const allocation&) override { return refuse(); }
  task<result<void>> do_release(const allocation&) override { return refuse(); }
  task<result<void>> do_zero(byte_range, zero_mode) override { return refuse(); }
  task<result<void>> do_discard(byte_range) override { return refuse(); }
  task<result<void>> do_flush() override { co_return result<void>{}; }
  task<result<void>> do_set_backing(std::optional<backing_reference>) override { return refuse(); }
  task<outcome<void>> do_resize(std::uint64_t, std::uint64_t) override {
    co_return make_failure(errc::not_supported, from_->location());
  }
  task<outcome<void>> do_make_empty() override {
    co_return make_failure(errc::not_supported, from_->location());
  }
  task<result<void>> do_close() override { return from_->close(); }
  static task<result<void>> refuse() { co_return errc::not_supported; }

  std::string format_;
  std::unique_ptr<storage> from_;
  std::optional<backing_reference> backing_;
  bool writable_;
};

/// "name|format" behind the magic.
inline std::optional<backing_reference> parse_reference(std::string_view text, bool may_probe) {
  const std::size_t bar = text.rfind('|');
  backing_reference reference;
  reference.name = text.substr(0, bar);
  if (bar != std::string_view::npos) reference.format = text.substr(bar + 1);
  reference.may_probe = may_probe && reference.format.empty();
  if (reference.name.empty()) return std::nullopt;
  return reference;
}

inline task<outcome<std::unique_ptr<image>>> open_text_image(std::unique_ptr<storage> from,
                                                             std::string format, std::string magic,
                                                             bool writable) {
  std::string text(from->size(), ' ');
  const result<void> read = co_await from->read(0, std::as_writable_bytes(std::span(text)));
  if (!read || !text.starts_with(magic)) {
    const result<void> ignored = co_await from->close();
    static_cast<void>(ignored);
    co_return make_failure(errc::not_this_format, from->location(), "not a " + format + " image");
  }
  std::optional<backing_reference> reference;
  if (!magic.empty())
    reference = parse_reference(std::string_view(text).substr(magic.size()), format == "qd");
  std::unique_ptr<image> opened =
      std::make_unique<text_image>(format, std::move(from), std::move(reference), writable);
  co_return opened;
}

inline task<outcome<std::unique_ptr<image>>> open_cow(std::unique_ptr<storage> from,
                                                      image_open_options options) {
  return open_text_image(std::move(from), "cow", "COW1 ", options.writable);
}
inline task<outcome<std::unique_ptr<image>>> open_qd(std::unique_ptr<storage> from,
                                                     image_open_options options) {
  return open_text_image(std::move(from), "qd", "QD01 ", options.writable);
}
inline task<outcome<std::unique_ptr<image>>> open_raw_text(std::unique_ptr<storage> from,
                                                           image_open_options options) {
  return open_text_image(std::move(from), "raw", "", options.writable);
}

template <char First>
bool starts_with_letter(std::span<const std::byte> head) {
  return head.size() >= 5 && head[0] == std::byte{First} && head[4] == std::byte{' '};
}

inline const format_table& text_formats() {
  static const std::array drivers{
      format_driver{
          .name = "cow", .can_have_backing = true, .probe = starts_with_letter<'C'>, .open = open_cow},
      format_driver{
          .name = "qd", .can_have_backing = true, .probe = starts_with_letter<'Q'>, .open = open_qd},
      format_driver{.name = "raw", .open = open_raw_text}};
  static const format_table table(drivers);
  return table;
}

/// Files by location (describe(source)); every one has an identity of its own unless it is an alias.
class text_world {
 public:
  void file(const std::string& location, std::string text) {
    files_[location] = {std::move(text), ++inodes_};
  }
  void alias(const std::string& location, const std::string& of) { files_[location] = files_.at(of); }

  storage_opener opener() {
    return [this](layer_source& source, bool writable) { return open(describe(source), writable); };
  }

  int open_count = 0;
  std::vector<std::string> opened;  ///< in order
  std::set<std::string> opened_writable;

 private:
  struct entry {
    std::string text;
    std::uint64_t inode = 0;
  };

  task<outcome<std::unique_ptr<storage>>> open(std::string location, bool writable) {
    const auto found = files_.find(location);
    if (found == files_.end()) co_return make_failure(errno_code(ENOENT), location);
    opened.push_back(location);
    if (writable) opened_writable.insert(location);
    std::unique_ptr<storage> made = std::make_unique<text_storage>(location, found->second.text,
                                                                   found->second.inode, writable, open_count);
    co_return made;
  }

  std::map<std::string, entry> files_;
  std::uint64_t inodes_ = 0;
};

}  // namespace weir::test
