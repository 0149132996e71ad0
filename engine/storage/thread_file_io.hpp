// File I/O by blocking calls on the worker pool, for machines that forbid io_uring.
#pragma once

#include "engine/storage/file_io.hpp"

namespace weir {

class thread_file_io final : public file_io {
 public:
  using file_io::file_io;
  std::string_view name() const noexcept override { return "threads"; }

 private:
  task<std::int64_t> do_perform(const file_request& request) override;
};

}  // namespace weir
