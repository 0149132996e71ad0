#include "engine/storage/file_io.hpp"

#include "engine/storage/thread_file_io.hpp"
#include "engine/storage/uring_file_io.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace weir {
namespace {

// The kernel moves at most 2 GiB less a page in one call.
constexpr std::uint64_t longest_transfer = 1 * GiB;

// Interrupted, or the kernel was short of something for a moment: make the same call again.
bool is_passing(std::int64_t answer) noexcept {
  return answer == -EINTR || answer == -EAGAIN;
}

error_code code_of(std::int64_t answer) noexcept {
  return errno_code(static_cast<int>(-answer));
}

}  // namespace

task<result<void>> file_io::read(int descriptor, std::uint64_t offset, std::span<std::byte> buffer,
                                 std::uint32_t alignment) {
  file_request request{.operation = file_request::kind::read, .descriptor = descriptor};
  while (!buffer.empty()) {
    request.offset = offset;
    request.data = buffer.data();
    request.length = std::min<std::uint64_t>(buffer.size(), longest_transfer);
    const std::int64_t answer = co_await do_perform(request);
    if (is_passing(answer)) continue;
    if (answer < 0) co_return code_of(answer);
    const auto count = static_cast<std::size_t>(answer);
    offset += count;
    buffer = buffer.subspan(count);
    if (count == 0 || count % alignment != 0) {
      std::memset(buffer.data(), 0, buffer.size());
      break;
    }
  }
  co_return result<void>{};
}

task<result<void>> file_io::write(int descriptor, std::uint64_t offset, std::span<const std::byte> data) {
  file_request request{.operation = file_request::kind::write, .descriptor = descriptor};
  while (!data.empty()) {
    request.offset = offset;
    request.data = const_cast<std::byte*>(data.data());  // only read
    request.length = std::min<std::uint64_t>(data.size(), longest_transfer);
    const std::int64_t answer = co_await do_perform(request);
    if (is_passing(answer)) continue;
    if (answer < 0) co_return code_of(answer);
    if (answer == 0) co_return errno_code(ENOSPC);  // a device's end
    offset += static_cast<std::uint64_t>(answer);
    data = data.subspan(static_cast<std::size_t>(answer));
  }
  co_return result<void>{};
}

task<result<void>> file_io::sync_data(int descriptor) {
  const file_request request{.operation = file_request::kind::sync_data, .descriptor = descriptor};
  std::int64_t answer = 0;
  do {
    answer = co_await do_perform(request);
  } while (is_passing(answer));
  if (answer < 0) co_return code_of(answer);
  co_return result<void>{};
}

task<result<void>> file_io::allocate(int descriptor, int mode, byte_range range) {
  const file_request request{.operation = file_request::kind::allocate,
                             .descriptor = descriptor,
                             .offset = range.offset,
                             .length = range.length,
                             .allocate_mode = mode};
  std::int64_t answer = 0;
  do {
    answer = co_await do_perform(request);
  } while (is_passing(answer));
  if (answer < 0) co_return code_of(answer);
  co_return result<void>{};
}

outcome<std::unique_ptr<file_io>> make_file_io(executor context, worker_pool& workers, aio_mode mode) {
  if (mode != aio_mode::threads) {
    result<std::unique_ptr<file_io>> made = make_uring_file_io(context, workers);
    if (made) return std::move(*made);
    if (mode == aio_mode::io_uring) return make_failure(made.error(), "io_uring");
  }
  return std::make_unique<thread_file_io>(std::move(context), workers);
}

}  // namespace weir
