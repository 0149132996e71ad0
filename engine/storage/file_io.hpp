// Asynchronous I/O on file descriptors: io_uring, or blocking calls on the worker pool where that is
// forbidden. Knows nothing of sizes, alignment or locks; engine/storage/local_file.hpp does.
#pragma once

#include "engine/base/error.hpp"
#include "engine/base/range.hpp"
#include "engine/base/task.hpp"
#include "engine/base/worker_pool.hpp"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

namespace weir {

enum class aio_mode : std::uint8_t {
  automatic,  ///< io_uring, threads where it is refused
  io_uring,
  threads,
};

/// One system call to make.
struct file_request {
  enum class kind : std::uint8_t { read, write, sync_data, allocate };
  kind operation;
  int descriptor;
  std::uint64_t offset = 0;
  std::byte* data = nullptr;  ///< read into or written from; belongs to the operation until it completes
  std::uint64_t length = 0;
  int allocate_mode = 0;  ///< fallocate(2)'s
};

class file_io {
 public:
  explicit file_io(executor context, worker_pool& workers)
      : executor_(std::move(context)), workers_(workers) {}
  file_io(const file_io&) = delete;
  file_io& operator=(const file_io&) = delete;
  /// Precondition: no operation is in flight.
  virtual ~file_io() = default;

  /// "io_uring" or "threads".
  virtual std::string_view name() const noexcept = 0;
  const executor& context() const noexcept { return executor_; }
  worker_pool& workers() noexcept { return workers_; }

  /// Fills `buffer`; what lies beyond the end of the file reads as zero. A short read that is not a multiple
  /// of `alignment` is taken for the end, since O_DIRECT cannot go on from there. Suspends.
  task<result<void>> read(int descriptor, std::uint64_t offset, std::span<std::byte> buffer,
                          std::uint32_t alignment = 1);
  /// Writes all of `data`. Suspends.
  task<result<void>> write(int descriptor, std::uint64_t offset, std::span<const std::byte> data);
  /// fdatasync(2). Suspends.
  task<result<void>> sync_data(int descriptor);
  /// fallocate(2). Suspends.
  task<result<void>> allocate(int descriptor, int mode, byte_range range);

 private:
  /// The call's result: a count, or a negative errno value.
  virtual task<std::int64_t> do_perform(const file_request& request) = 0;

  executor executor_;
  worker_pool& workers_;
};

/// Precondition: `workers` outlives the result. Errors: with aio_mode::io_uring why the kernel refuses it.
outcome<std::unique_ptr<file_io>> make_file_io(executor context, worker_pool& workers, aio_mode mode);

}  // namespace weir
