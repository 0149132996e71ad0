#include "engine/storage/local_file.hpp"

#include "engine/storage/direct_access.hpp"
#include "engine/storage/file_space.hpp"
#include "engine/storage/opened_file.hpp"

#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <utility>
#include <vector>

namespace weir {
namespace {

// Up to this length a cached read or a write to memory is done at once instead of asynchronously.
constexpr std::size_t longest_inline = 64 * KiB;
// Every so often an operation is asynchronous all the same, so that a busy task lets others run.
constexpr unsigned inline_in_a_row = 64;

class local_file final : public storage {
 public:
  local_file(file_io& io, std::string location, opened_file file, const local_file_options& options);
  ~local_file() override { unlock(); }

  const std::string& location() const noexcept override { return location_; }
  const storage_capabilities& capabilities() const noexcept override { return capabilities_; }
  std::uint64_t size() const noexcept override { return size_; }
  std::optional<int> descriptor() const noexcept override {
    return direct_ ? std::nullopt : std::optional(file_.descriptor.get());
  }
  void note_descriptor_write(byte_range range) noexcept override { size_ = std::max(size_, range.end()); }
  std::optional<identity_type> identity() const noexcept override { return file_.identity; }

 private:
  task<result<void>> do_read(std::uint64_t offset, std::span<std::byte> buffer) override;
  task<result<void>> do_write(std::uint64_t offset, std::span<const std::byte> data) override;
  task<result<void>> do_flush() override;
  task<result<void>> do_zero(byte_range range, zero_mode mode) override;
  task<result<void>> do_discard(byte_range range) override;
  task<result<void>> do_truncate(std::uint64_t length) override;
  task<result<storage_run>> do_status(byte_range range) override;
  task<result<void>> do_close() override;

  bool may_go_inline(std::size_t length) noexcept;
  std::size_t read_now(std::uint64_t offset, std::span<std::byte> buffer) noexcept;
  std::size_t write_now(std::uint64_t offset, std::span<const std::byte> data) noexcept;
  task<result<void>> zero_held(byte_range range, zero_mode mode);
  task<result<void>> zero_device(byte_range range, zero_mode mode);
  task<result<void>> write_zeros(byte_range range);
  task<result<void>> synced(result<void> done);
  task<result<void>> sync_data();
  void unlock() noexcept;

  file_io& io_;
  std::string location_;
  opened_file file_;
  cache_mode cache_;
  bool is_locked_;
  storage_capabilities capabilities_;
  std::uint64_t size_;
  bool reads_inline_;
  unsigned inline_count_ = 0;
  file_space space_;
  std::optional<direct_access> direct_;
  error_code sync_error_;  ///< the first one, for good
};

local_file::local_file(file_io& io, std::string location, opened_file file, const local_file_options& options)
    : io_(io),
      location_(std::move(location)),
      file_(std::move(file)),
      cache_(options.cache),
      is_locked_(options.locking != image_locking::off),
      capabilities_{.writable = options.writable,
                    .can_grow = file_.can_grow,
                    .can_punch = options.writable,
                    .fast_zero = options.writable,
                    .reports_holes = file_.is_regular,
                    .alignment = file_.alignment ? file_.alignment->block : 1},
      size_(file_.size),
      reads_inline_(!file_.alignment),
      space_(io, file_.descriptor.get(), file_.is_regular, !options.writable) {
  if (file_.alignment) {
    direct_.emplace(io, file_.descriptor.get(), *file_.alignment, size_, file_.is_regular);
  }
}

bool local_file::may_go_inline(std::size_t length) noexcept {
  return length <= longest_inline && ++inline_count_ % inline_in_a_row != 0;
}

// How many bytes could be had without waiting for a device.
std::size_t local_file::read_now(std::uint64_t offset, std::span<std::byte> buffer) noexcept {
  const iovec vector{buffer.data(), buffer.size()};
  const int flags = file_.in_memory ? 0 : RWF_NOWAIT;
  const ssize_t got = ::preadv2(file_.descriptor.get(), &vector, 1, static_cast<off_t>(offset), flags);
  if (got >= 0) return static_cast<std::size_t>(got);
  if (errno == EOPNOTSUPP) reads_inline_ = false;
  return 0;
}

std::size_t local_file::write_now(std::uint64_t offset, std::span<const std::byte> data) noexcept {
  const ssize_t put = ::pwrite(file_.descriptor.get(), data.data(), data.size(), static_cast<off_t>(offset));
  return put > 0 ? static_cast<std::size_t>(put) : 0;
}

task<result<void>> local_file::do_read(std::uint64_t offset, std::span<std::byte> buffer) {
  if (direct_) co_return co_await direct_->read(offset, buffer);
  if (reads_inline_ && may_go_inline(buffer.size())) {
    const std::size_t done = read_now(offset, buffer);
    if (done == buffer.size()) co_return result<void>{};
    offset += done;
    buffer = buffer.subspan(done);
  }
  co_return co_await io_.read(file_.descriptor.get(), offset, buffer);
}

task<result<void>> local_file::do_write(std::uint64_t offset, std::span<const std::byte> data) {
  const std::uint64_t end = offset + data.size();
  result<void> done;
  if (direct_) {
    done = co_await direct_->write(offset, data);
    if (cache_ == cache_mode::directsync && !file_.syncs_writes) done = co_await synced(done);
    co_return done;
  }
  if (file_.in_memory && may_go_inline(data.size())) {
    const std::size_t count = write_now(offset, data);
    offset += count;
    data = data.subspan(count);
  }
  if (!data.empty()) done = co_await io_.write(file_.descriptor.get(), offset, data);
  if (done) size_ = std::max(size_, end);
  co_return done;
}

task<result<void>> local_file::do_flush() {
  if (cache_ == cache_mode::unsafe) co_return result<void>{};
  co_return co_await sync_data();
}

// Linux tells once that the page cache could not be written back, and then takes the lost pages for clean: no later
// success means that they are on the disk.
task<result<void>> local_file::sync_data() {
  if (sync_error_) co_return sync_error_;
  const result<void> done = co_await io_.sync_data(file_.descriptor.get());
  if (!done && !direct_ && !sync_error_) sync_error_ = done.error();
  if (sync_error_) co_return sync_error_;
  co_return done;
}

// A change is durable when it completes where the cache mode says so.
task<result<void>> local_file::synced(result<void> done) {
  if (!done || cache_ != cache_mode::directsync) co_return done;
  co_return co_await sync_data();
}

task<result<void>> local_file::do_zero(byte_range range, zero_mode mode) {
  if (!direct_) co_return co_await zero_held(range, mode);
  const in_flight_ranges::hold held = co_await direct_->acquire(range);
  const result<void> done = co_await zero_held(range, mode);
  co_return co_await synced(done);
}

task<result<void>> local_file::zero_held(byte_range range, zero_mode mode) {
  if (!file_.is_regular) co_return co_await zero_device(range, mode);
  const result<void> done = co_await space_.zero_file(range, mode, size_);
  if (done) size_ = std::max(size_, range.end());
  co_return done;
}

// Devices zero whole sectors only.
task<result<void>> local_file::zero_device(byte_range range, zero_mode mode) {
  const byte_range sectors = align_inward(range, file_.sector_bytes);
  if (sectors.empty() || (direct_ && sectors != range)) co_return errc::not_supported;
  const byte_range head = range_between(range.offset, sectors.offset);
  const byte_range tail = range_between(sectors.end(), range.end());
  result<void> done = co_await space_.zero_device(sectors, mode);
  if (done && !head.empty()) done = co_await write_zeros(head);
  if (done && !tail.empty()) done = co_await write_zeros(tail);
  co_return done;
}

task<result<void>> local_file::write_zeros(byte_range range) {
  const std::vector<std::byte> zeros(range.length);
  co_return co_await io_.write(file_.descriptor.get(), range.offset, zeros);
}

task<result<void>> local_file::do_discard(byte_range range) {
  if (!file_.is_regular) range = align_inward(range, file_.sector_bytes);
  if (range.empty()) co_return result<void>{};
  if (!direct_) co_return co_await space_.discard(range);
  const in_flight_ranges::hold held = co_await direct_->acquire(range);
  const result<void> done = co_await space_.discard(range);
  co_return co_await synced(done);
}

task<result<void>> local_file::do_truncate(std::uint64_t length) {
  if (!file_.can_grow) co_return errc::not_supported;
  std::optional<in_flight_ranges::hold> held;
  if (direct_) {
    const byte_range claimed = range_between(std::min(length, size_), direct_access::to_the_end);
    held.emplace(co_await direct_->acquire(claimed));
  }
  const result<void> done = co_await space_.set_length(length);
  if (done) size_ = length;
  co_return co_await synced(done);
}

task<result<storage_run>> local_file::do_status(byte_range range) {
  co_return co_await space_.status(range, size_);
}

void local_file::unlock() noexcept {
  if (file_.descriptor && file_.is_passed && is_locked_) unlock_image(file_.descriptor.get());
}

task<result<void>> local_file::do_close() {
  unlock();
  // Closing may write back, on network file systems.
  const int descriptor = file_.descriptor.release();
  const auto work = [descriptor]() -> result<void> {
    if (::close(descriptor) != 0) return errno_code(errno);
    return {};
  };
  co_return co_await io_.workers().run(work);
}

}  // namespace

task<outcome<std::unique_ptr<storage>>> open_local_file(file_io& io, std::string path,
                                                        local_file_options options) {
  options.writable = options.writable || options.create;
  const auto work = [&path, &options] { return open_file(path, options); };
  outcome<opened_file> opened = co_await io.workers().run(work);
  if (!opened) co_return std::move(opened).error();
  co_return std::make_unique<local_file>(io, std::move(path), std::move(*opened), options);
}

}  // namespace weir
