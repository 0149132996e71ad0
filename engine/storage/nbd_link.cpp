#include "engine/storage/nbd_link.hpp"

#include <boost/asio/as_tuple.hpp>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace weir {
namespace {

constexpr std::chrono::milliseconds first_pause{50};
constexpr std::chrono::milliseconds longest_pause{5'000};

}  // namespace

nbd_link::nbd_link(executor context, worker_pool& workers, nbd_target target, nbd_client_settings settings)
    : executor_(context),
      workers_(workers),
      target_(std::move(target)),
      settings_(settings),
      pause_timer_(context),
      limit_timer_(context),
      restored_(context),
      tasks_(context) {}

task<outcome<void>> nbd_link::connect() {
  auto first = co_await nbd_connection::open(executor_, workers_, target_, settings_);
  if (!first) co_return first.error();
  facts_ = (*first)->facts();
  connections_.push_back(std::move(*first));
  const unsigned wanted = facts_.can_multi_conn ? std::max(settings_.connections, 1U) : 1U;
  // The others are welcome but not needed: a server may limit them.
  connections_.resize(wanted);
  for (unsigned index = 1; index < wanted; ++index) {
    auto next = co_await nbd_connection::open(executor_, workers_, target_, settings_);
    if (!next) {
      connections_.resize(index);
      break;
    }
    connections_[index] = std::move(*next);
  }
  co_return outcome<void>{};
}

std::shared_ptr<nbd_connection> nbd_link::least_busy() const noexcept {
  std::shared_ptr<nbd_connection> best;
  for (const auto& each : connections_) {
    if (!each->is_usable()) continue;
    if (!best || each->in_flight() < best->in_flight()) best = each;
  }
  return best;
}

bool nbd_link::is_complete() const noexcept {
  return std::ranges::all_of(connections_, [](const auto& each) { return each->is_usable(); });
}

std::uint64_t nbd_link::loss_count() const noexcept {
  const auto down = std::ranges::count_if(connections_, [](const auto& each) { return !each->is_usable(); });
  return replaced_count_ + static_cast<std::uint64_t>(down);
}

task<result<std::shared_ptr<nbd_connection>>> nbd_link::acquire() {
  while (true) {
    if (closing_) co_return errc::closed;
    if (changed_export_) co_return errno_code(ESTALE);
    if (!is_complete()) start_repair();
    std::shared_ptr<nbd_connection> best = least_busy();
    if (best) co_return best;
    note_outage();
    if (clock::now() - *outage_since_ >= settings_.reconnect_limit) co_return errno_code(ETIMEDOUT);
    co_await restored_.wait();
  }
}

void nbd_link::note_outage() {
  if (outage_since_) return;
  outage_since_ = clock::now();
  limit_timer_.expires_after(settings_.reconnect_limit);
  limit_timer_.async_wait([this](const error_code& cancelled) {
    if (!cancelled) restored_.notify_all();
  });
}

void nbd_link::start_repair() {
  if (std::exchange(repairing_, true)) return;
  tasks_.spawn(repair());
}

task<void> nbd_link::repair() {
  std::chrono::milliseconds pause = first_pause;
  while (!closing_ && !changed_export_ && !is_complete()) {
    const bool replaced = co_await replace_one();
    if (replaced) {
      pause = first_pause;
      continue;
    }
    if (closing_ || changed_export_) break;
    pause_timer_.expires_after(pause);
    co_await pause_timer_.async_wait(boost::asio::as_tuple(use_task));
    pause = std::min(pause * 2, longest_pause);
  }
  repairing_ = false;
}

task<bool> nbd_link::replace_one() {
  auto opened = co_await nbd_connection::open(executor_, workers_, target_, settings_);
  if (!opened) co_return false;
  const bool same = (*opened)->facts() == facts_;
  const auto lost = std::ranges::find_if(connections_, [](const auto& each) { return !each->is_usable(); });
  if (!same || closing_ || lost == connections_.end()) {
    co_await (*opened)->close();
    if (!same) changed_export_ = true;
    restored_.notify_all();
    co_return false;
  }
  *lost = std::move(*opened);
  ++replaced_count_;
  outage_since_.reset();
  limit_timer_.cancel();
  restored_.notify_all();
  co_return true;
}

task<void> nbd_link::close() {
  closing_ = true;
  pause_timer_.cancel();
  limit_timer_.cancel();
  restored_.notify_all();
  co_await tasks_.join();
  for (const auto& each : connections_) co_await each->close();
  connections_.clear();
}

}  // namespace weir
