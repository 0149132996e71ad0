#include "engine/storage/curl_driver.hpp"

#include "engine/base/async_event.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <chrono>
#include <new>
#include <utility>

namespace weir {
namespace {

/// libcurl wants to be made ready before the first handle, and once.
void make_ready() {
  static const CURLcode ready = curl_global_init(CURL_GLOBAL_DEFAULT);
  if (ready != CURLE_OK) throw std::bad_alloc();
}

CURLM* make_multi() {
  make_ready();
  CURLM* made = curl_multi_init();
  if (made == nullptr) throw std::bad_alloc();
  return made;
}

}  // namespace

curl_driver::curl_driver(executor context, unsigned connections)
    : executor_(context), multi_(make_multi()), timer_(context) {
  const auto most = static_cast<long>(connections);
  curl_multi_setopt(multi_, CURLMOPT_SOCKETFUNCTION, &curl_driver::on_socket);
  curl_multi_setopt(multi_, CURLMOPT_SOCKETDATA, this);
  curl_multi_setopt(multi_, CURLMOPT_TIMERFUNCTION, &curl_driver::on_timer);
  curl_multi_setopt(multi_, CURLMOPT_TIMERDATA, this);
  curl_multi_setopt(multi_, CURLMOPT_MAX_TOTAL_CONNECTIONS, most);
  curl_multi_setopt(multi_, CURLMOPT_MAXCONNECTS, most);
}

curl_driver::~curl_driver() {
  curl_multi_setopt(multi_, CURLMOPT_TIMERFUNCTION, nullptr);
  curl_multi_cleanup(multi_);
  for (auto& [number, each] : watches_) each->wanted = CURL_POLL_NONE;
}

task<CURLcode> curl_driver::perform(CURL* easy) {
  transfer own{.easy = easy, .ended = CURLE_OK, .resume = {}};
  curl_easy_setopt(easy, CURLOPT_PRIVATE, &own);
  co_await suspend_until([&](resumption resume) {
    own.resume = std::move(resume);
    active_.emplace(easy, &own);
    if (curl_multi_add_handle(multi_, easy) != CURLM_OK) finish(own, CURLE_FAILED_INIT);
  });
  co_return own.ended;
}

void curl_driver::abort_all() {
  while (!active_.empty()) {
    transfer& each = *active_.begin()->second;
    curl_multi_remove_handle(multi_, each.easy);
    finish(each, CURLE_ABORTED_BY_CALLBACK);
  }
  arm();
}

void curl_driver::finish(transfer& ended, CURLcode code) {
  ended.ended = code;
  active_.erase(ended.easy);
  run_later(executor_, std::move(ended.resume));
}

int curl_driver::on_socket(CURL*, curl_socket_t socket, int what, void* self, void*) noexcept {
  auto& driver = *static_cast<curl_driver*>(self);
  const auto found = driver.watches_.find(socket);
  if (what == CURL_POLL_REMOVE) {
    if (found == driver.watches_.end()) return 0;
    boost::system::error_code ignored;
    found->second->wanted = CURL_POLL_NONE;
    found->second->socket.close(ignored);
    driver.watches_.erase(found);
    return 0;
  }
  if (found != driver.watches_.end()) {
    found->second->wanted = what;
    return 0;
  }
  const int duplicate = ::fcntl(socket, F_DUPFD_CLOEXEC, 0);
  if (duplicate < 0) return -1;
  auto made = std::make_shared<watch>(driver.executor_);
  boost::system::error_code refused;
  made->socket.assign(duplicate, refused);
  if (refused) {
    ::close(duplicate);
    return -1;
  }
  made->wanted = what;
  driver.watches_.emplace(socket, std::move(made));
  return 0;
}

int curl_driver::on_timer(CURLM*, long timeout_ms, void* self) noexcept {
  auto& driver = *static_cast<curl_driver*>(self);
  if (timeout_ms < 0) {
    driver.timer_.cancel();
    return 0;
  }
  driver.timer_.expires_after(std::chrono::milliseconds(timeout_ms));
  driver.timer_.async_wait(
      [&driver, alive = std::weak_ptr(driver.alive_)](const boost::system::error_code& cancelled) {
        if (!cancelled && !alive.expired()) driver.act(CURL_SOCKET_TIMEOUT, 0);
      });
  return 0;
}

void curl_driver::act(curl_socket_t number, int events) {
  int running = 0;
  curl_multi_socket_action(multi_, number, events, &running);
  reap();
  arm();
}

void curl_driver::reap() {
  int left = 0;
  while (const CURLMsg* message = curl_multi_info_read(multi_, &left)) {
    if (message->msg != CURLMSG_DONE) continue;
    const CURLcode code = message->data.result;
    CURL* const easy = message->easy_handle;
    curl_multi_remove_handle(multi_, easy);
    const auto found = active_.find(easy);
    if (found != active_.end()) finish(*found->second, code);
  }
}

void curl_driver::arm() {
  for (const auto& [number, each] : watches_) {
    if ((each->wanted & CURL_POLL_IN) != 0 && !each->waits_readable) wait(number, each, true);
    if ((each->wanted & CURL_POLL_OUT) != 0 && !each->waits_writable) wait(number, each, false);
  }
}

void curl_driver::wait(curl_socket_t number, const std::shared_ptr<watch>& on, bool for_reading) {
  using descriptor = boost::asio::posix::descriptor_base;
  (for_reading ? on->waits_readable : on->waits_writable) = true;
  const auto ready = [this, number, on, for_reading](const boost::system::error_code& cancelled) {
    (for_reading ? on->waits_readable : on->waits_writable) = false;
    // Closed, or libcurl has lost interest meanwhile; in the first case the driver may be gone.
    if (cancelled || on->wanted == CURL_POLL_NONE) return;
    const int wanted = for_reading ? CURL_POLL_IN : CURL_POLL_OUT;
    if ((on->wanted & wanted) != 0) act(number, for_reading ? CURL_CSELECT_IN : CURL_CSELECT_OUT);
  };
  on->socket.async_wait(for_reading ? descriptor::wait_read : descriptor::wait_write, ready);
}

}  // namespace weir
