#include "engine/storage/nbd_connection.hpp"

#include <libnbd.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <functional>
#include <string>
#include <utility>

namespace weir {
namespace {

constexpr const char* allocation_context = "base:allocation";
constexpr std::uint32_t reads_zero_bit = 2;
/// What a server takes that says nothing of block sizes.
constexpr std::uint64_t usual_longest_request = std::uint64_t{32} << 20;
constexpr std::uint64_t largest_minimum_block = 65536;

failure nbd_failure(const nbd_target& target) {
  const char* text = nbd_get_error();
  const error_code code = errno_code(nbd_get_errno() != 0 ? nbd_get_errno() : EIO);
  std::string what = text != nullptr ? text : code.message();
  // A server refuses its client after the client's side of the handshake is over.
  if (what.find("gnutls_") != std::string::npos) what.insert(0, "TLS: ");
  return make_failure(code, target.location, what);
}

/// Certificates where there are any, otherwise the first key of keys.psk.
bool use_tls_files(nbd_handle* handle, const std::string& directory) {
  const std::string keys = directory + "/keys.psk";
  std::string line;
  std::ifstream file(keys);
  const bool has_authority = ::access((directory + "/ca-cert.pem").c_str(), F_OK) == 0;
  while (!has_authority && std::getline(file, line)) {
    const std::size_t colon = line.find(':');
    if (line.starts_with('#') || colon == std::string::npos) continue;
    return nbd_set_tls_psk_file(handle, keys.c_str()) == 0 &&
           nbd_set_tls_username(handle, line.substr(0, colon).c_str()) == 0;
  }
  return nbd_set_tls_certificates(handle, directory.c_str()) == 0;
}

error_code request_error(int number) {
  if (number == ENOTSUP) return errc::not_supported;
  return errno_code(number != 0 ? number : EIO);
}

}  // namespace

/// What a completion needs to know; lives in the frame of the task that waits.
class nbd_connection::request {
 public:
  explicit request(nbd_connection& owner) : owner_(owner) {}

  nbd_completion_callback completion() noexcept {
    return {.callback = &request::on_completed, .user_data = this, .free = nullptr};
  }
  nbd_extent_callback extents(std::vector<nbd_run>& into) noexcept {
    runs_ = &into;
    return {.callback = &request::on_extents, .user_data = this, .free = nullptr};
  }

  void park(resumption resume) { resume_ = std::move(resume); }
  void finish(int error_number) {
    error_number_ = error_number;
    run_later(owner_.executor_, std::move(resume_));
  }
  int error_number() const noexcept { return error_number_; }

 private:
  static int on_completed(void* self, int* error_number) noexcept {
    static_cast<request*>(self)->finish(*error_number);
    return 1;  // retire it
  }

  static int on_extents(void* self, const char* context, std::uint64_t, std::uint32_t* entries,
                        std::size_t count, int*) noexcept {
    if (std::strcmp(context, allocation_context) != 0) return 0;
    std::vector<nbd_run>& runs = *static_cast<request*>(self)->runs_;
    for (std::size_t i = 0; i + 1 < count && runs.size() < most_runs; i += 2) {
      runs.push_back({.length = entries[i], .reads_zero = (entries[i + 1] & reads_zero_bit) != 0});
    }
    return 0;
  }

  nbd_connection& owner_;
  resumption resume_;
  std::vector<nbd_run>* runs_ = nullptr;
  int error_number_ = 0;
};

nbd_connection::nbd_connection(executor context, nbd_client_settings settings)
    : executor_(context), settings_(settings), socket_(context), stall_timer_(context), changed_(context) {}

nbd_connection::~nbd_connection() {
  unwatch();
  if (handle_ != nullptr) nbd_close(handle_);
}

task<outcome<std::shared_ptr<nbd_connection>>> nbd_connection::open(executor context, worker_pool& workers,
                                                                    nbd_target target,
                                                                    nbd_client_settings settings) {
  auto made = std::make_shared<nbd_connection>(context, settings);
  outcome<void> done = made->configure(target);
  if (done) done = co_await made->connect(workers, target);
  if (done) done = made->read_facts(target);
  if (!done) {
    made->unwatch();
    co_return done.error();
  }
  made->usable_ = true;
  co_return made;
}

outcome<void> nbd_connection::configure(const nbd_target& target) {
  handle_ = nbd_create();
  if (handle_ == nullptr) return nbd_failure(target);
  bool done = nbd_set_export_name(handle_, target.export_name.c_str()) == 0 &&
              nbd_add_meta_context(handle_, allocation_context) == 0 &&
              nbd_set_pread_initialize(handle_, false) == 0;
  if (done && target.tls) {
    done = nbd_supports_tls(handle_) == 1 && nbd_set_tls(handle_, LIBNBD_TLS_REQUIRE) == 0 &&
           nbd_set_tls_verify_peer(handle_, true) == 0;
    if (done && !target.tls_directory.empty()) done = use_tls_files(handle_, target.tls_directory);
  }
  if (!done) return nbd_failure(target);
  return {};
}

task<outcome<void>> nbd_connection::connect(worker_pool& workers, const nbd_target& target) {
  int begun = 0;
  outcome<void> refused;
  if (!target.socket_path.empty()) {
    begun = nbd_aio_connect_unix(handle_, target.socket_path.c_str());
    if (begun != 0) refused = nbd_failure(target);
  } else {
    // Resolves the name, which may block. libnbd's error texts belong to the thread.
    nbd_handle* handle = handle_;
    const auto work = [handle, &target, &refused] {
      const int answer = nbd_aio_connect_tcp(handle, target.host.c_str(), target.port.c_str());
      if (answer != 0) refused = nbd_failure(target);
      return answer;
    };
    begun = co_await workers.run(work);
  }
  if (begun != 0) co_return refused;
  stall_timer_.expires_after(settings_.connect_timeout);
  stall_timer_.async_wait([self = shared_from_this()](const error_code& cancelled) {
    if (cancelled) return;
    self->timed_out_ = true;
    self->changed_.notify_all();
  });
  arm();
  while (nbd_aio_is_ready(handle_) != 1 && !is_over() && !timed_out_) co_await changed_.wait();
  stall_timer_.cancel();
  if (nbd_aio_is_ready(handle_) == 1) co_return outcome<void>{};
  if (timed_out_)
    co_return make_failure(errno_code(ETIMEDOUT), target.location, "the server does not answer");
  co_return nbd_failure(target);
}

outcome<void> nbd_connection::read_facts(const nbd_target& target) {
  const std::int64_t size = nbd_get_size(handle_);
  if (size < 0) return make_failure(errno_code(EFBIG), target.location, "the export has no usable size");
  facts_.size = static_cast<std::uint64_t>(size);
  facts_.read_only = nbd_is_read_only(handle_) == 1;
  facts_.can_flush = nbd_can_flush(handle_) == 1;
  facts_.can_trim = nbd_can_trim(handle_) == 1;
  facts_.can_zero = nbd_can_zero(handle_) == 1;
  facts_.can_multi_conn = nbd_can_multi_conn(handle_) == 1;
  facts_.has_allocation = nbd_can_meta_context(handle_, allocation_context) == 1;
  const std::int64_t minimum = nbd_get_block_size(handle_, LIBNBD_SIZE_MINIMUM);
  const std::int64_t longest = nbd_get_block_size(handle_, LIBNBD_SIZE_MAXIMUM);
  const std::uint64_t block = minimum > 0 ? static_cast<std::uint64_t>(minimum) : 1;
  if (!std::has_single_bit(block) || block > largest_minimum_block || !is_aligned(facts_.size, block)) {
    return make_failure(errc::not_supported, target.location,
                        "the server's minimum block size " + std::to_string(block) +
                            " does not fit the size " + std::to_string(facts_.size));
  }
  facts_.minimum_block = static_cast<std::uint32_t>(block);
  std::uint64_t request = longest > 0 ? static_cast<std::uint64_t>(longest) : usual_longest_request;
  request = align_down(std::min(request, usual_longest_request), block);
  if (request == 0) request = block;
  facts_.longest_request = static_cast<std::uint32_t>(request);
  return {};
}

bool nbd_connection::is_over() const noexcept {
  return nbd_aio_is_dead(handle_) == 1 || nbd_aio_is_closed(handle_) == 1;
}

// Waiting for the socket

void nbd_connection::arm() {
  if (is_over()) {
    usable_ = false;
    unwatch();
    stall_timer_.cancel();
    changed_.notify_all();
    return;
  }
  if (!usable_) {
    watch();
    changed_.notify_all();
  }
  const unsigned direction = nbd_aio_get_direction(handle_);
  if ((direction & LIBNBD_AIO_DIRECTION_READ) != 0 && !waits_readable_) wait_for_readable();
  if ((direction & LIBNBD_AIO_DIRECTION_WRITE) != 0 && !waits_writable_) wait_for_writable();
}

/// While libnbd connects, its descriptor may be another one each time, even with the same number.
void nbd_connection::watch() {
  const int descriptor = nbd_aio_get_fd(handle_);
  struct stat facts{};
  if (descriptor < 0 || fstat(descriptor, &facts) != 0) return unwatch();
  if (socket_.is_open() && facts.st_ino == watched_inode_) return;
  unwatch();
  const int duplicate = dup(descriptor);
  if (duplicate < 0) return;
  error_code ignored;
  socket_.assign(duplicate, ignored);
  watched_inode_ = facts.st_ino;
}

void nbd_connection::unwatch() noexcept {
  ++watch_number_;
  waits_readable_ = false;
  waits_writable_ = false;
  error_code ignored;
  socket_.close(ignored);
}

void nbd_connection::wait_for_readable() {
  if (!socket_.is_open()) return;
  waits_readable_ = true;
  socket_.async_wait(boost::asio::posix::descriptor_base::wait_read,
                     [self = shared_from_this(), number = watch_number_](const error_code&) {
                       if (number != self->watch_number_) return;
                       self->waits_readable_ = false;
                       self->on_ready(LIBNBD_AIO_DIRECTION_READ);
                     });
}

void nbd_connection::wait_for_writable() {
  if (!socket_.is_open()) return;
  waits_writable_ = true;
  socket_.async_wait(boost::asio::posix::descriptor_base::wait_write,
                     [self = shared_from_this(), number = watch_number_](const error_code&) {
                       if (number != self->watch_number_) return;
                       self->waits_writable_ = false;
                       self->on_ready(LIBNBD_AIO_DIRECTION_WRITE);
                     });
}

/// The reactor may report what was true a moment ago. That is harmless but for one case: libnbd 1.14 that is told
/// to read while it waits to send the rest of a request, and finds nothing, forgets to go on sending.
bool nbd_connection::is_readable() noexcept {
  pollfd now{.fd = socket_.native_handle(), .events = POLLIN, .revents = 0};
  return ::poll(&now, 1, 0) == 1;
}

void nbd_connection::on_ready(unsigned direction) {
  unsigned wanted = nbd_aio_get_direction(handle_);
  const bool sends_too = (wanted & LIBNBD_AIO_DIRECTION_WRITE) != 0;
  wanted &= direction;
  if (direction == LIBNBD_AIO_DIRECTION_READ && sends_too && !is_readable()) wanted = 0;
  // An error shows in the state, which arm() looks at.
  if ((wanted & LIBNBD_AIO_DIRECTION_READ) != 0) {
    nbd_aio_notify_read(handle_);
  } else if ((wanted & LIBNBD_AIO_DIRECTION_WRITE) != 0) {
    nbd_aio_notify_write(handle_);
  }
  arm();
}

// Requests

template <class Issue>
task<result<void>> nbd_connection::perform(Issue issue) {
  if (!usable_) co_return errno_code(ENOTCONN);
  const std::shared_ptr<nbd_connection> self = shared_from_this();
  request waiting(*this);
  if (in_flight_++ == 0) start_stall_clock();
  co_await suspend_until([&](resumption resume) {
    waiting.park(std::move(resume));
    // Below zero: nothing was sent and no completion will run.
    if (issue(waiting) < 0) waiting.finish(nbd_get_errno() != 0 ? nbd_get_errno() : EIO);
    arm();
  });
  ++answered_count_;
  silent_periods_ = 0;
  if (--in_flight_ == 0) stall_timer_.cancel();
  if (waiting.error_number() != 0) co_return request_error(waiting.error_number());
  co_return result<void>{};
}

template <class Issue>
task<result<void>> nbd_connection::perform_change(Issue issue) {
  const std::shared_ptr<nbd_connection> self = shared_from_this();
  ++changes_in_flight_;
  const result<void> done = co_await perform(std::move(issue));
  --changes_in_flight_;
  co_return done;
}

task<result<void>> nbd_connection::read(std::uint64_t offset, std::span<std::byte> buffer) {
  return perform([this, offset, buffer](request& waiting) {
    return nbd_aio_pread(handle_, buffer.data(), buffer.size(), offset, waiting.completion(), 0);
  });
}

task<result<void>> nbd_connection::write(std::uint64_t offset, std::span<const std::byte> data) {
  return perform_change([this, offset, data](request& waiting) {
    return nbd_aio_pwrite(handle_, data.data(), data.size(), offset, waiting.completion(), 0);
  });
}

task<result<void>> nbd_connection::zero(byte_range range, bool keep_allocated) {
  const std::uint32_t flags = keep_allocated ? LIBNBD_CMD_FLAG_NO_HOLE : 0;
  return perform_change([this, range, flags](request& waiting) {
    return nbd_aio_zero(handle_, range.length, range.offset, waiting.completion(), flags);
  });
}

task<result<void>> nbd_connection::trim(byte_range range) {
  return perform_change([this, range](request& waiting) {
    return nbd_aio_trim(handle_, range.length, range.offset, waiting.completion(), 0);
  });
}

task<result<void>> nbd_connection::flush() {
  return perform([this](request& waiting) { return nbd_aio_flush(handle_, waiting.completion(), 0); });
}

task<result<std::vector<nbd_run>>> nbd_connection::status(byte_range range) {
  std::vector<nbd_run> runs;
  const auto issue = [this, range, &runs](request& waiting) {
    return nbd_aio_block_status(handle_, range.length, range.offset, waiting.extents(runs),
                                waiting.completion(), 0);
  };
  const result<void> done = co_await perform(issue);
  if (!done) co_return done.error();
  // libnbd passes on empty runs, runs past the range and no runs at all.
  std::uint64_t told = 0;
  std::vector<nbd_run> sound;
  for (const nbd_run& run : runs) {
    const std::uint64_t length = std::min(run.length, range.length - told);
    if (length == 0) break;
    sound.push_back({.length = length, .reads_zero = run.reads_zero});
    told += length;
  }
  if (sound.empty()) co_return errno_code(EPROTO);
  co_return sound;
}

/// Runs while requests are in flight; whole periods without an answer end the connection.
void nbd_connection::start_stall_clock() {
  stall_timer_.expires_after(settings_.stall_timeout);
  stall_timer_.async_wait([self = shared_from_this(), seen = answered_count_](const error_code& cancelled) {
    if (cancelled || self->in_flight_ == 0) return;
    self->silent_periods_ = self->answered_count_ == seen ? self->silent_periods_ + 1 : 0;
    const unsigned patience = self->changes_in_flight_ == 0 ? 1 : self->settings_.stalls_of_a_change;
    if (self->silent_periods_ >= patience) return self->abandon();
    self->start_stall_clock();
  });
}

void nbd_connection::abandon() noexcept {
  usable_ = false;
  // The handle finds its socket at the end and completes everything with an error.
  if (socket_.is_open()) ::shutdown(socket_.native_handle(), SHUT_RDWR);
}

task<void> nbd_connection::close() {
  const std::shared_ptr<nbd_connection> self = shared_from_this();
  if (is_over()) co_return;
  usable_ = false;
  timed_out_ = false;
  nbd_aio_disconnect(handle_, 0);
  stall_timer_.expires_after(settings_.connect_timeout);
  stall_timer_.async_wait([self](const error_code& cancelled) {
    if (cancelled) return;
    self->timed_out_ = true;
    self->changed_.notify_all();
  });
  arm();
  while (!is_over() && !timed_out_) co_await changed_.wait();
  stall_timer_.cancel();
  unwatch();
}

}  // namespace weir
