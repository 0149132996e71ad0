#include "formats/qcow1/child_process.hpp"

#include "formats/qcow1/reader_protocol.hpp"

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/write.hpp>
#include <fcntl.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <utility>

namespace weir::qcow1 {
namespace {

constexpr auto use_tuple_task = boost::asio::as_tuple(use_task);
// Above everything the child's descriptors are numbered, so that moving one never covers another.
constexpr int lowest_spare = 16;

class spawn_plan {
 public:
  spawn_plan() { ::posix_spawn_file_actions_init(&actions_); }
  ~spawn_plan() { ::posix_spawn_file_actions_destroy(&actions_); }
  spawn_plan(const spawn_plan&) = delete;
  spawn_plan& operator=(const spawn_plan&) = delete;

  result<pid_t> run(const std::string& path, int socket_end, int file) {
    for (const int number : {0, 1, 2}) {
      ::posix_spawn_file_actions_addopen(&actions_, number, "/dev/null", O_RDWR, 0);
    }
    ::posix_spawn_file_actions_adddup2(&actions_, socket_end, reader_socket);
    ::posix_spawn_file_actions_adddup2(&actions_, file, reader_image);
    std::string name = path;
    std::array<char*, 2> words{name.data(), nullptr};
    std::array<char*, 1> environment{nullptr};
    pid_t process = 0;
    const int failed =
        ::posix_spawn(&process, path.c_str(), &actions_, nullptr, words.data(), environment.data());
    if (failed != 0) return errno_code(failed);
    return process;
  }

 private:
  posix_spawn_file_actions_t actions_{};
};

}  // namespace

child_process::child_process(executor context, int socket_end, pid_t process, int process_descriptor)
    : socket_(context, boost::asio::generic::stream_protocol(AF_UNIX, 0), socket_end),
      process_(process),
      exit_(context, process_descriptor) {}

result<std::unique_ptr<child_process>> child_process::start(executor context, const std::string& path,
                                                            int file) {
  std::array<int, 2> ends{};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0) return errno_code(errno);
  file_descriptor ours(ends[0]);
  const file_descriptor lent(ends[1]);
  const file_descriptor theirs(::fcntl(lent.get(), F_DUPFD_CLOEXEC, lowest_spare));
  const file_descriptor handed(::fcntl(file, F_DUPFD_CLOEXEC, lowest_spare));
  if (!theirs || !handed) return errno_code(errno);
  spawn_plan plan;
  const result<pid_t> process = plan.run(path, theirs.get(), handed.get());
  if (!process) return process.error();
  const auto watched = static_cast<int>(::syscall(SYS_pidfd_open, *process, 0));
  if (watched < 0) {
    const error_code why = errno_code(errno);
    ::kill(*process, SIGKILL);
    ::waitpid(*process, nullptr, 0);
    return why;
  }
  return std::unique_ptr<child_process>(new child_process(context, ours.release(), *process, watched));
}

child_process::~child_process() {
  if (process_ <= 0) return;
  ::kill(process_, SIGKILL);
  ::waitpid(process_, nullptr, WNOHANG);
}

task<result<void>> child_process::send(std::span<const std::byte> data) {
  const boost::asio::const_buffer buffer(data.data(), data.size());
  const auto [error, length] = co_await boost::asio::async_write(socket_, buffer, use_tuple_task);
  if (error) co_return error;
  co_return result<void>{};
}

task<result<void>> child_process::receive(std::span<std::byte> into) {
  const boost::asio::mutable_buffer buffer(into.data(), into.size());
  const auto [error, length] = co_await boost::asio::async_read(socket_, buffer, use_tuple_task);
  if (error) co_return error;
  co_return result<void>{};
}

task<int> child_process::end() {
  boost::system::error_code ignored;
  // One that has ended by itself keeps the status it ended with.
  socket_.close(ignored);
  ::kill(process_, SIGKILL);
  const auto [error] = co_await exit_.async_wait(descriptor::wait_read, use_tuple_task);
  static_cast<void>(error);
  int status = 0;
  ::waitpid(std::exchange(process_, 0), &status, WNOHANG);
  co_return status;
}

}  // namespace weir::qcow1
