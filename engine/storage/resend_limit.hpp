// How often, and for how long, one request is sent again whose connection is lost.
#pragma once

#include <chrono>

namespace weir {

class resend_limit {
 public:
  static constexpr unsigned most_losses = 16;

  explicit resend_limit(std::chrono::milliseconds patience) : patience_(patience) {}

  /// The request lost its connection. False: it is to fail.
  bool may_go_on() {
    const clock::time_point now = clock::now();
    if (losses_++ == 0) until_ = now + patience_;
    return losses_ < most_losses && now <= until_;
  }

 private:
  using clock = std::chrono::steady_clock;

  std::chrono::milliseconds patience_;
  clock::time_point until_;
  unsigned losses_ = 0;
};

}  // namespace weir
