#include "engine/storage/file_space.hpp"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace weir {
namespace {

constexpr int punch_mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
// Finding runs costs a trip to a worker: bring a good number home from each.
constexpr std::size_t runs_per_trip = 256;

bool is_unsupported(error_code code) {
  return code == errno_code(EOPNOTSUPP) || code == errno_code(ENOSYS) || code == errno_code(ENOTTY);
}

result<void> discard_sectors(int descriptor, byte_range sectors) {
  std::uint64_t where[2] = {sectors.offset, sectors.length};
  if (::ioctl(descriptor, BLKDISCARD, where) != 0) return errno_code(errno);
  return {};
}

}  // namespace

task<result<void>> file_space::punch(byte_range range) {
  if (!can_punch_) co_return errc::not_supported;
  known_runs_.clear();
  const result<void> done = co_await io_.allocate(descriptor_, punch_mode, range);
  if (done || !is_unsupported(done.error())) co_return done;
  can_punch_ = false;
  co_return errc::not_supported;
}

task<result<void>> file_space::zero_allocated(byte_range range) {
  known_runs_.clear();
  if (can_zero_range_) {
    const result<void> done = co_await io_.allocate(descriptor_, FALLOC_FL_ZERO_RANGE, range);
    if (done || !is_unsupported(done.error())) co_return done;
    can_zero_range_ = false;
  }
  const result<void> punched = co_await punch(range);
  if (!punched) co_return punched;
  co_return co_await io_.allocate(descriptor_, 0, range);
}

task<result<void>> file_space::zero_file(byte_range range, zero_mode mode, std::uint64_t size) {
  if (mode == zero_mode::keep_allocated || !can_punch_) {
    const result<void> done = co_await zero_allocated(range);
    if (!done && is_unsupported(done.error())) co_return errc::not_supported;
    co_return done;
  }
  if (range.end() > size) {
    // Growing by the last byte and punching it out again can never cut off what another write has just
    // appended, as ftruncate could.
    const byte_range last_byte{range.end() - 1, 1};
    const result<void> grown = co_await io_.allocate(descriptor_, 0, last_byte);
    if (!grown && is_unsupported(grown.error())) co_return errc::not_supported;
    if (!grown) co_return grown;
  }
  co_return co_await punch(range);
}

task<result<void>> file_space::zero_device(byte_range sectors, zero_mode mode) {
  if (mode == zero_mode::may_punch) {
    const result<void> done = co_await punch(sectors);
    if (done || done.error() != errc::not_supported) co_return done;
  }
  if (!can_zero_range_) co_return errc::not_supported;
  const result<void> done =
      co_await io_.allocate(descriptor_, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, sectors);
  if (done || !is_unsupported(done.error())) co_return done;
  can_zero_range_ = false;
  co_return errc::not_supported;
}

task<result<void>> file_space::discard(byte_range range) {
  const result<void> punched = co_await punch(range);
  if (punched || punched.error() != errc::not_supported) co_return punched;
  if (is_regular_ || !can_discard_) co_return result<void>{};
  const int descriptor = descriptor_;
  const auto work = [descriptor, range] { return discard_sectors(descriptor, range); };
  const result<void> done = co_await io_.workers().run(work);
  if (done || !is_unsupported(done.error())) co_return done;
  can_discard_ = false;
  co_return result<void>{};
}

task<result<void>> file_space::set_length(std::uint64_t length) {
  known_runs_.clear();
  const int descriptor = descriptor_;
  const auto work = [descriptor, length]() -> result<void> {
    if (::ftruncate(descriptor, static_cast<off_t>(length)) != 0) return errno_code(errno);
    return {};
  };
  co_return co_await io_.workers().run(work);
}

// Up to `count` runs that cover the start of `range`. Moves the file position, which nothing here uses.
result<file_space::runs> file_space::list_runs(int descriptor, byte_range range, std::size_t count) {
  runs found;
  std::uint64_t at = range.offset;
  while (at < range.end() && found.size() < count) {
    const off_t data = ::lseek(descriptor, static_cast<off_t>(at), SEEK_DATA);
    bool is_hole = true;
    std::uint64_t end = range.end();
    if (data < 0 && errno != ENXIO) {
      is_hole = false;  // holes are not told apart here
    } else if (data >= 0 && static_cast<std::uint64_t>(data) > at) {
      end = static_cast<std::uint64_t>(data);
    } else if (data >= 0) {
      is_hole = false;
      const off_t hole = ::lseek(descriptor, data, SEEK_HOLE);
      if (hole > data) end = static_cast<std::uint64_t>(hole);
    }
    end = std::min(end, range.end());
    found.push_back({range_between(at, end), is_hole});
    at = end;
  }
  return found;
}

task<result<storage_run>> file_space::status(byte_range range, std::uint64_t size) {
  if (!is_regular_) co_return storage_run{range.length, false};
  const auto holds_start = [range](const run& known) { return known.range.contains(range.offset); };
  auto at = std::find_if(known_runs_.begin(), known_runs_.end(), holds_start);
  if (at == known_runs_.end()) {
    // Another writer of the file, or of its descriptor, would make a remembered hole a lie. Data is always a true
    // answer, and finding where it ends may cost a walk over the whole file (tmpfs).
    const byte_range asked = range_between(range.offset, size);
    const std::size_t count = is_frozen_ ? runs_per_trip : 1;
    const int descriptor = descriptor_;
    const auto work = [descriptor, asked, count] { return list_runs(descriptor, asked, count); };
    result<runs> found = co_await io_.workers().run(work);
    if (!found) co_return found.error();
    known_runs_ = std::move(*found);
    at = known_runs_.begin();
    const storage_run answer{std::min(at->range.end(), range.end()) - range.offset, at->is_hole};
    if (!is_frozen_ && at->is_hole) known_runs_.clear();
    co_return answer;
  }
  co_return storage_run{std::min(at->range.end(), range.end()) - range.offset, at->is_hole};
}

}  // namespace weir
