#include "engine/storage/uring_file_io.hpp"

#include <boost/asio/posix/basic_stream_descriptor.hpp>
#include <liburing.h>

#include <array>
#include <cassert>
#include <cerrno>
#include <deque>
#include <functional>
#include <utility>
#include <vector>

namespace weir {
namespace {

using resume_function = std::move_only_function<void(std::int64_t)>;

class uring_file_io final : public file_io {
 public:
  using file_io::file_io;
  ~uring_file_io() override;

  /// Sets the ring up. An errno value, or 0.
  int open();
  std::string_view name() const noexcept override { return "io_uring"; }

 private:
  static constexpr unsigned slot_count = 256;

  struct waiting_request {
    const file_request* request;  // in the frame of the task that waits
    resume_function resume;
  };

  task<std::int64_t> do_perform(const file_request& request) override;

  void enqueue(const file_request& request, resume_function resume);
  void prepare(const file_request& request, resume_function resume);
  void submit();
  void reap(bool resume);
  void arm();

  io_uring ring_{};
  bool is_open_ = false;
  std::vector<resume_function> slots_{slot_count};
  std::vector<std::uint32_t> free_slots_;
  std::deque<waiting_request> backlog_;
  bool submit_posted_ = false;
  bool armed_ = false;
  boost::asio::posix::basic_stream_descriptor<executor> readable_{context()};
  // Handlers queued in the io_context may outlive this object.
  std::shared_ptr<uring_file_io*> self_ = std::make_shared<uring_file_io*>(this);
};

bool has_operations(io_uring& ring) {
  io_uring_probe* probe = io_uring_get_probe_ring(&ring);
  if (probe == nullptr) return false;
  bool all = true;
  for (const int operation : {IORING_OP_READ, IORING_OP_WRITE, IORING_OP_FSYNC, IORING_OP_FALLOCATE}) {
    all = all && io_uring_opcode_supported(probe, operation) != 0;
  }
  io_uring_free_probe(probe);
  return all;
}

int uring_file_io::open() {
  // Without COOP_TASKRUN (before 5.19) the kernel interrupts this thread for each completion.
  int error = io_uring_queue_init(slot_count, &ring_, IORING_SETUP_COOP_TASKRUN);
  if (error == -EINVAL) error = io_uring_queue_init(slot_count, &ring_, 0);
  if (error < 0) return -error;
  is_open_ = true;
  if (!has_operations(ring_)) return ENOSYS;
  for (std::uint32_t index = slot_count; index > 0; --index) free_slots_.push_back(index - 1);
  readable_.assign(ring_.ring_fd);
  return 0;
}

uring_file_io::~uring_file_io() {
  const std::shared_ptr<uring_file_io*> self = self_;
  if (!is_open_) return;
  assert(free_slots_.empty() || (free_slots_.size() == slot_count && backlog_.empty()));
  // The kernel owns the buffers of what is in flight: never leave before it answered.
  while (!free_slots_.empty() && free_slots_.size() < slot_count) {
    io_uring_submit_and_wait(&ring_, 1);
    reap(false);
  }
  *self = nullptr;
  if (readable_.is_open()) readable_.release();
  io_uring_queue_exit(&ring_);
}

task<std::int64_t> uring_file_io::do_perform(const file_request& request) {
  return boost::asio::async_initiate<const boost::asio::use_awaitable_t<executor>, void(std::int64_t)>(
      [this, &request](auto handler) {
        enqueue(request,
                [handler = std::move(handler)](std::int64_t answer) mutable { std::move(handler)(answer); });
      },
      use_task);
}

void uring_file_io::enqueue(const file_request& request, resume_function resume) {
  if (free_slots_.empty()) {
    backlog_.push_back({&request, std::move(resume)});
    return;
  }
  prepare(request, std::move(resume));
}

void uring_file_io::prepare(const file_request& request, resume_function resume) {
  io_uring_sqe* entry = io_uring_get_sqe(&ring_);
  assert(entry != nullptr);  // as many entries as slots
  const auto length = static_cast<unsigned>(request.length);
  switch (request.operation) {
    case file_request::kind::read:
      io_uring_prep_read(entry, request.descriptor, request.data, length, request.offset);
      break;
    case file_request::kind::write:
      io_uring_prep_write(entry, request.descriptor, request.data, length, request.offset);
      break;
    case file_request::kind::sync_data:
      io_uring_prep_fsync(entry, request.descriptor, IORING_FSYNC_DATASYNC);
      break;
    case file_request::kind::allocate:
      io_uring_prep_fallocate(entry, request.descriptor, request.allocate_mode,
                              static_cast<off_t>(request.offset), static_cast<off_t>(request.length));
      break;
  }
  const std::uint32_t slot = free_slots_.back();
  free_slots_.pop_back();
  slots_[slot] = std::move(resume);
  io_uring_sqe_set_data64(entry, slot);
  if (std::exchange(submit_posted_, true)) return;
  run_later(context(), [self = self_] {
    if (*self != nullptr) (*self)->submit();
  });
}

void uring_file_io::submit() {
  submit_posted_ = false;
  while (io_uring_sq_ready(&ring_) > 0) {
    const int error = io_uring_submit(&ring_);
    if (error == -EINTR) continue;
    // Out of memory for the moment: try again at a later turn.
    if (error < 0 && !std::exchange(submit_posted_, true)) {
      run_later(context(), [self = self_] {
        if (*self != nullptr) (*self)->submit();
      });
    }
    if (error < 0) break;
  }
  reap(true);
  arm();
}

void uring_file_io::reap(bool resume) {
  const std::shared_ptr<uring_file_io*> self = self_;
  io_uring_cqe* entry = nullptr;
  while (*self != nullptr && io_uring_peek_cqe(&ring_, &entry) == 0) {
    const auto slot = static_cast<std::uint32_t>(io_uring_cqe_get_data64(entry));
    const std::int64_t answer = entry->res;
    io_uring_cqe_seen(&ring_, entry);
    resume_function waiting = std::exchange(slots_[slot], nullptr);
    free_slots_.push_back(slot);
    if (!backlog_.empty()) {
      waiting_request next = std::move(backlog_.front());
      backlog_.pop_front();
      prepare(*next.request, std::move(next.resume));
    }
    if (resume) waiting(answer);
  }
}

void uring_file_io::arm() {
  const bool in_flight = free_slots_.size() < slot_count;
  if (armed_) {
    // An armed wait keeps io_context::run() from returning.
    if (!in_flight) readable_.cancel();
    return;
  }
  if (!in_flight) return;
  armed_ = true;
  readable_.async_wait(boost::asio::posix::descriptor_base::wait_read,
                       [self = self_](const boost::system::error_code&) {
                         if (*self == nullptr) return;
                         (*self)->armed_ = false;
                         (*self)->reap(true);
                         if (*self != nullptr) (*self)->arm();
                       });
}

}  // namespace

result<std::unique_ptr<file_io>> make_uring_file_io(executor context, worker_pool& workers) {
  auto made = std::make_unique<uring_file_io>(std::move(context), workers);
  if (const int error = made->open()) return errno_code(error);
  return std::unique_ptr<file_io>(std::move(made));
}

}  // namespace weir
