#include "formats/qcow2/qcow2_image.hpp"

#include "formats/codec.hpp"

#include <utility>

namespace weir::qcow2 {

// A quarter of the cache is for refcounts: one refcount slice covers as much guest data as four L2 slices at
// the usual 16 bits, but allocation touches both at random only after much freeing.
qcow2_image::qcow2_image(executor context, std::unique_ptr<storage> from, const header& parsed, bool writable,
                         std::size_t cache_bytes)
    : storage_(std::move(from)),
      tables_(context, *storage_, parsed, writable ? cache_bytes / 4 * 3 : cache_bytes),
      mapper_(tables_, writable),
      writer_(writable ? std::make_unique<qcow2::writer>(context, tables_, pins(), cache_bytes / 4)
                       : nullptr),
      bitmaps_(tables_, writer_.get()),
      snapshots_(tables_, writer_.get(), bitmaps_, [this] { bump_epoch(); }) {}

bool qcow2_image::zeroes_fast() const noexcept {
  return tables_.shape.version >= 3 || !tables_.head.backing;
}

std::vector<image_fact> qcow2_image::facts() const {
  const header& head = tables_.head;
  const bool is_v3 = tables_.shape.version >= 3;
  const std::string compression = head.compression == compression::zstd ? "zstd" : "zlib";
  std::vector<image_fact> made;
  made.push_back({"cluster-size", tables_.shape.cluster_size()});
  made.push_back({"compat", std::string(is_v3 ? "1.1" : "0.10")});
  made.push_back({"compression-type", compression});
  if (is_v3) made.push_back({"lazy-refcounts", (head.compatible & lazy_refcounts_bit) != 0});
  if (head.crypt_method == aes_encryption) made.push_back({"encryption", std::string("aes")});
  made.push_back({"refcount-bits", std::uint64_t{1} << tables_.shape.refcount_order});
  if (is_v3) {
    if (tables_.shape.external_data) {
      made.push_back({"data-file", head.data_file});
      made.push_back({"data-file-raw", head.has_raw_data_file()});
    }
    made.push_back({"corrupt", head.has(incompatible_bit::corrupt)});
    made.push_back({"extended-l2", tables_.shape.extended_l2});
  }
  return made;
}

std::optional<result<extent>> qcow2_image::do_try_map(byte_range range, map_effort) {
  std::optional<result<extent>> found = mapper_.map(range);
  // An error that marks the image wants I/O: do_map() comes to the same answer.
  const bool marks = found && !*found && writer_ && !writer_->found_corrupt();
  if (marks) found.reset();
  return found;
}

/// The error of a mapping or a change. Once the metadata has contradicted itself nothing is in place any more.
task<error_code> qcow2_image::judge(error_code code) {
  const error_code corrupt = errc::corrupt_image;
  if (!writer_ || code != corrupt) co_return code;
  if (!writer_->found_corrupt()) {
    mapper_.stop_writing();
    bump_epoch();
  }
  co_return co_await writer_->note(code);
}

task<result<extent>> qcow2_image::do_map(byte_range range, map_effort) {
  while (true) {
    const std::optional<result<extent>> found = mapper_.map(range);
    if (found && !*found) co_return co_await judge(found->error());
    if (found) co_return *found;
    const result<void> loaded = co_await tables_.l2.load(mapper_.missing_slice(range.offset));
    if (!loaded) co_return loaded.error();
  }
}

task<result<allocation>> qcow2_image::do_allocate(byte_range range) {
  const result<allocation> made = co_await writer_->allocate(range);
  if (!made) co_return co_await judge(made.error());
  co_return made;
}

std::optional<unit_encoding> qcow2_image::encoding() const noexcept {
  if (tables_.shape.external_data) return std::nullopt;
  const bool zstd = tables_.head.compression == compression::zstd;
  return unit_encoding{.unit_bytes = tables_.shape.cluster_size(),
                       .make_encoder = zstd ? &make_zstd_encoder : &make_deflate_encoder};
}

task<result<allocation>> qcow2_image::do_allocate_encoded(byte_range unit, std::uint64_t byte_length) {
  const result<allocation> made = co_await writer_->allocate_encoded(unit, byte_length);
  if (!made) co_return co_await judge(made.error());
  co_return made;
}

task<result<void>> qcow2_image::do_publish(const allocation& reserved) {
  const result<void> done = co_await writer_->publish(reserved);
  if (!done) co_return co_await judge(done.error());
  co_return done;
}

task<result<void>> qcow2_image::do_release(const allocation& reserved) {
  return writer_->release(reserved);
}

task<result<void>> qcow2_image::do_zero(byte_range range, zero_mode mode) {
  const result<void> done = co_await writer_->zero(range, mode);
  if (!done) co_return co_await judge(done.error());
  co_return done;
}

task<result<void>> qcow2_image::do_discard(byte_range range) {
  const result<void> done = co_await writer_->discard(range);
  if (!done) co_return co_await judge(done.error());
  co_return done;
}

task<result<void>> qcow2_image::do_flush() {
  return writer_->flush();
}

task<result<void>> qcow2_image::do_set_backing(std::optional<backing_reference> reference) {
  // What a raw data file says, no backing image may add to.
  if (reference && tables_.head.has_raw_data_file()) co_return errc::not_supported;
  const result<void> changed = co_await writer_->change_backing(std::move(reference));
  if (changed) bump_epoch();
  co_return changed;
}

task<outcome<void>> qcow2_image::do_resize(std::uint64_t size, std::uint64_t zero_end) {
  // Bitmaps are as long as the disk: from here on until they are stored again nobody may trust those in the file.
  outcome<void> done = co_await bitmaps_.begin_resize(size);
  if (done) done = co_await writer_->resize(size, zero_end);
  if (!done) co_return done;
  bitmaps_.end_resize();
  co_return co_await bitmaps_.store();
}

task<outcome<void>> qcow2_image::do_make_empty() {
  const result<void> emptied = co_await writer_->make_empty();
  if (!emptied) co_return make_failure(emptied.error(), storage_->location());
  co_return outcome<void>{};
}

task<result<void>> qcow2_image::do_close() {
  result<void> answer;
  if (writer_) {
    const outcome<void> stored = co_await bitmaps_.store();
    answer = co_await writer_->flush_all();
    if (!stored) answer = stored.error().code;
  }
  if (data_file_) {
    const result<void> data_closed = co_await data_file_->close();
    if (answer) answer = data_closed;
  }
  const result<void> closed = co_await storage_->close();
  co_return answer ? closed : answer;
}

}  // namespace weir::qcow2
