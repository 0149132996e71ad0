#include "engine/storage/thread_file_io.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

namespace weir {
namespace {

std::int64_t perform(const file_request& request) noexcept {
  const auto offset = static_cast<off_t>(request.offset);
  std::int64_t answer = -1;
  switch (request.operation) {
    case file_request::kind::read:
      answer = ::pread(request.descriptor, request.data, request.length, offset);
      break;
    case file_request::kind::write:
      answer = ::pwrite(request.descriptor, request.data, request.length, offset);
      break;
    case file_request::kind::sync_data:
      answer = ::fdatasync(request.descriptor);
      break;
    case file_request::kind::allocate:
      answer =
          ::fallocate(request.descriptor, request.allocate_mode, offset, static_cast<off_t>(request.length));
      break;
  }
  return answer < 0 ? -errno : answer;
}

}  // namespace

task<std::int64_t> thread_file_io::do_perform(const file_request& request) {
  const auto work = [request] { return perform(request); };
  co_return co_await workers().run(work);
}

}  // namespace weir
