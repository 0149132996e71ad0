// libcurl's transfers on the engine's thread: one multi handle, told by Asio which sockets are ready and when time is
// up.
//
// libcurl says through callbacks what it waits for; nothing of libcurl may be called inside them, so they only note it
// down. Whoever called libcurl looks afterwards for what has come to an end and posts the tasks that wait.
// Sockets are watched through duplicates, since libcurl closes its own when it likes. Names are resolved by a thread
// of libcurl's own; nothing blocks.
#pragma once

#include "engine/base/task.hpp"
#include "engine/base/timer.hpp"

#include <boost/asio/posix/stream_descriptor.hpp>
#include <curl/curl.h>

#include <functional>
#include <map>
#include <memory>

namespace weir {

class curl_driver {
 public:
  /// At most `connections` transfers are on the wire; more wait for one of those to end.
  curl_driver(executor context, unsigned connections);
  /// Precondition: no transfer is under way.
  ~curl_driver();
  curl_driver(const curl_driver&) = delete;
  curl_driver& operator=(const curl_driver&) = delete;

  /// Runs the transfer that `easy` describes to its end. The handle's CURLOPT_PRIVATE is the driver's.
  task<CURLcode> perform(CURL* easy);
  /// Ends everything under way with CURLE_ABORTED_BY_CALLBACK.
  void abort_all();

 private:
  struct transfer {
    CURL* easy = nullptr;
    CURLcode ended = CURLE_OK;
    resumption resume;
  };
  struct watch {
    explicit watch(const executor& context) : socket(context) {}
    boost::asio::posix::basic_stream_descriptor<executor> socket;
    int wanted = CURL_POLL_NONE;
    bool waits_readable = false;
    bool waits_writable = false;
  };

  static int on_socket(CURL* easy, curl_socket_t socket, int what, void* self, void*) noexcept;
  static int on_timer(CURLM* multi, long timeout_ms, void* self) noexcept;

  void arm();
  void wait(curl_socket_t number, const std::shared_ptr<watch>& on, bool for_reading);
  void act(curl_socket_t number, int events);
  void reap();
  void finish(transfer& ended, CURLcode code);

  executor executor_;
  CURLM* multi_;
  std::map<curl_socket_t, std::shared_ptr<watch>> watches_;
  std::map<CURL*, transfer*> active_;
  timer timer_;
  std::shared_ptr<int> alive_ = std::make_shared<int>();  ///< for a timer's handler that is on its way
};

}  // namespace weir
