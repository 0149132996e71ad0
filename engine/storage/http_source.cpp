#include "engine/storage/http_source.hpp"

#include "engine/storage/http_transfer.hpp"

#include <boost/asio/as_tuple.hpp>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <string_view>
#include <utility>

namespace weir {
namespace {

constexpr std::chrono::milliseconds first_pause{50};
constexpr std::chrono::milliseconds longest_pause{5'000};

/// scheme://name:port in lower case; empty for what libcurl does not take for a URL.
std::string origin_of(const std::string& url) {
  const std::unique_ptr<CURLU, void (*)(CURLU*)> parsed(curl_url(), &curl_url_cleanup);
  if (!parsed || curl_url_set(parsed.get(), CURLUPART_URL, url.c_str(), 0) != CURLUE_OK) return {};
  std::string origin;
  for (const CURLUPart part : {CURLUPART_SCHEME, CURLUPART_HOST, CURLUPART_PORT}) {
    char* text = nullptr;
    if (curl_url_get(parsed.get(), part, &text, CURLU_DEFAULT_PORT) != CURLUE_OK) return {};
    origin.append(text).push_back('\n');
    curl_free(text);
  }
  std::ranges::transform(origin, origin.begin(),
                         [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
  return origin;
}

http_verdict refusal(std::string why) {
  return {.what = http_verdict::kind::refuse, .why = std::move(why), .code = errno_code(EPROTO)};
}

}  // namespace

http_source::http_source(executor context, http_target target, http_client_settings settings)
    : executor_(context),
      target_(std::move(target)),
      settings_(settings),
      driver_(context, std::max(settings.connections, 1U)),
      place_(target_.url) {}

task<outcome<void>> http_source::open(std::span<std::byte> first) {
  const byte_range beginning{0, first.size()};
  const http_verdict verdict = co_await ask(beginning, first);
  if (verdict.what != http_verdict::kind::data)
    co_return make_failure(verdict.code, target_.location, verdict.why);
  object_ = verdict.object;
  co_return outcome<void>{};
}

task<result<void>> http_source::read(std::uint64_t offset, std::span<std::byte> into) {
  const byte_range range{offset, into.size()};
  std::optional<clock::time_point> failing_since;
  std::chrono::milliseconds wait = first_pause;
  while (true) {
    if (has_changed_) co_return errno_code(ESTALE);
    const http_verdict verdict = co_await ask(range, into);
    if (closing_) co_return errc::closed;
    // Another range may have found out meanwhile.
    if (verdict.what == http_verdict::kind::changed || has_changed_) {
      has_changed_ = true;
      co_return errno_code(ESTALE);
    }
    if (verdict.what == http_verdict::kind::data) {
      outage_since_.reset();
      co_return result<void>{};
    }
    if (verdict.what == http_verdict::kind::refuse) co_return verdict.code;
    if (!failing_since) failing_since = clock::now();
    if (!outage_since_) outage_since_ = failing_since;
    if (is_too_late(*failing_since)) co_return errno_code(ETIMEDOUT);
    co_await pause(wait);
    if (closing_) co_return errc::closed;
    wait = std::min(wait * 2, longest_pause);
  }
}

bool http_source::is_too_late(clock::time_point failing_since) const {
  const clock::time_point since = outage_since_ ? std::min(*outage_since_, failing_since) : failing_since;
  return clock::now() - since >= settings_.reconnect_limit;
}

task<void> http_source::pause(std::chrono::milliseconds time) {
  timer own(executor_);
  own.expires_after(time);
  pauses_.insert(&own);
  co_await own.async_wait(boost::asio::as_tuple(use_task));
  pauses_.erase(&own);
}

/// Asks where the last redirect led, and from the beginning if that is of no use any more.
task<http_verdict> http_source::ask(byte_range range, std::span<std::byte> into) {
  const std::string place = place_;
  http_verdict verdict = co_await follow(place, range, into);
  const bool led_astray = verdict.what == http_verdict::kind::refuse && place != target_.url && !closing_;
  if (led_astray) verdict = co_await follow(target_.url, range, into);
  if (verdict.what != http_verdict::kind::data) place_ = target_.url;
  co_return verdict;
}

task<http_verdict> http_source::follow(std::string url, byte_range range, std::span<std::byte> into) {
  const std::string own_origin = origin_of(target_.url);
  for (unsigned hop = 0; hop <= most_redirects; ++hop) {
    http_transfer transfer(target_, settings_,
                           {.url = url,
                            .with_secrets = origin_of(url) == own_origin,
                            .range = range,
                            .into = into,
                            .known = object_});
    http_verdict verdict = co_await transfer.run(driver_);
    if (verdict.what == http_verdict::kind::data) place_ = url;
    if (verdict.what != http_verdict::kind::redirect) co_return verdict;
    const std::string next = transfer.redirect_url();
    const std::string origin = origin_of(next);
    if (!origin.starts_with("http\n") && !origin.starts_with("https\n"))
      co_return refusal("the server redirects to where nothing can be read");
    if (origin_of(url).starts_with("https\n") && !origin.starts_with("https\n"))
      co_return refusal("the server redirects from https to http");
    url = next;
  }
  co_return refusal("the server redirects more than " + std::to_string(most_redirects) + " times");
}

void http_source::close() {
  closing_ = true;
  driver_.abort_all();
  for (timer* each : pauses_) each->cancel();
}

}  // namespace weir
