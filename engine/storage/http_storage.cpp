#include "engine/storage/http_storage.hpp"

#include "engine/base/async_event.hpp"
#include "engine/base/task_group.hpp"
#include "engine/storage/block_cache.hpp"
#include "engine/storage/http_source.hpp"
#include "engine/storage/read_sequences.hpp"

#include <algorithm>
#include <cstring>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace weir {
namespace {

constexpr std::uint64_t block_bytes = 64 * KiB;
constexpr std::size_t most_cached_blocks = 512;
constexpr std::uint64_t longest_transfer = 1 * MiB;
/// From this length on a read goes past the cache.
constexpr std::uint64_t large_read = 512 * KiB;
constexpr std::uint64_t first_read_ahead = 2 * block_bytes;

/// Blocks on their way; kept by those who wait for them.
struct fetch {
  byte_range range;
  std::vector<std::byte> content;
  std::optional<result<void>> done;
};

class http_storage final : public storage {
 public:
  http_storage(executor context, http_target target, http_client_settings settings)
      : source_(context, std::move(target), settings),
        cache_(most_cached_blocks),
        sequences_(first_read_ahead, std::min(settings.read_ahead_bytes, longest_transfer)),
        executor_(context),
        arrived_(context),
        ahead_(context) {
    capabilities_.alignment = 1;
  }

  task<outcome<void>> connect();

  const std::string& location() const noexcept override { return source_.target().location; }
  const storage_capabilities& capabilities() const noexcept override { return capabilities_; }
  std::uint64_t size() const noexcept override { return source_.size(); }
  std::optional<int> descriptor() const noexcept override { return std::nullopt; }
  void note_descriptor_write(byte_range) noexcept override {}
  std::optional<identity_type> identity() const noexcept override { return std::nullopt; }

 private:
  task<result<void>> do_read(std::uint64_t offset, std::span<std::byte> buffer) override;
  task<result<void>> do_write(std::uint64_t offset, std::span<const std::byte> data) override;
  task<result<void>> do_flush() override;
  task<result<void>> do_zero(byte_range range, zero_mode mode) override;
  task<result<void>> do_discard(byte_range range) override;
  task<result<void>> do_truncate(std::uint64_t length) override;
  task<result<storage_run>> do_status(byte_range range) override;
  task<result<void>> do_close() override;

  task<result<void>> read_large(byte_range range, std::span<std::byte> buffer);
  task<void> read_piece(std::uint64_t offset, std::span<std::byte> buffer, result<void>& worst);
  task<result<void>> read_small(byte_range range, std::span<std::byte> buffer);
  task<result<void>> read_block(byte_range part, byte_range whole, std::span<std::byte> buffer);
  void read_ahead(byte_range read);
  std::shared_ptr<fetch> on_its_way(std::uint64_t block) const;
  std::shared_ptr<fetch> begin_fetch(byte_range blocks);
  task<void> run_fetch(std::shared_ptr<fetch> begun);
  byte_range missing_from(std::uint64_t offset, std::uint64_t end) const;

  http_source source_;
  storage_capabilities capabilities_;
  block_cache cache_;
  std::map<std::uint64_t, std::shared_ptr<fetch>> fetches_;  ///< by offset; disjoint
  read_sequences sequences_;
  executor executor_;
  async_event arrived_;
  task_group ahead_;  ///< every fetch runs here, whoever waits for it
};

task<outcome<void>> http_storage::connect() {
  std::vector<std::byte> first(block_bytes);
  const outcome<void> opened = co_await source_.open(first);
  if (!opened) {
    source_.close();
    co_return opened;
  }
  if (size() > 0) cache_.put(0, std::span(first).first(std::min<std::uint64_t>(block_bytes, size())));
  co_return outcome<void>{};
}

task<result<void>> http_storage::do_read(std::uint64_t offset, std::span<std::byte> buffer) {
  const byte_range inside = intersection({offset, buffer.size()}, {0, size()});
  const auto length = static_cast<std::size_t>(inside.length);
  std::memset(buffer.data() + length, 0, buffer.size() - length);
  if (length == 0) co_return result<void>{};
  if (length >= large_read) co_return co_await read_large(inside, buffer.first(length));
  co_return co_await read_small(inside, buffer.first(length));
}

task<result<void>> http_storage::read_large(byte_range range, std::span<std::byte> buffer) {
  result<void> worst;
  task_group pieces(executor_);
  for (std::uint64_t at = 0; at < range.length; at += longest_transfer) {
    const std::uint64_t length = std::min(longest_transfer, range.length - at);
    const auto part = buffer.subspan(static_cast<std::size_t>(at), static_cast<std::size_t>(length));
    pieces.spawn(read_piece(range.offset + at, part, worst));
    co_await pieces.wait_until_running(source_.settings().connections);
  }
  co_await pieces.join();
  co_return worst;
}

task<void> http_storage::read_piece(std::uint64_t offset, std::span<std::byte> buffer, result<void>& worst) {
  const result<void> done = co_await source_.read(offset, buffer);
  if (!done) worst = done;
}

task<result<void>> http_storage::read_small(byte_range range, std::span<std::byte> buffer) {
  // All that is missing is asked for before any of it is waited for.
  for (std::uint64_t at = range.offset; at < range.end();) {
    const byte_range missing = missing_from(at, range.end());
    if (missing.empty()) break;
    begin_fetch(missing);
    at = missing.end();
  }
  read_ahead(range);
  for (std::uint64_t at = range.offset; at < range.end();) {
    const byte_range block{align_down(at, block_bytes), block_bytes};
    const byte_range part = intersection({at, range.end() - at}, block);
    const auto into =
        buffer.subspan(static_cast<std::size_t>(at - range.offset), static_cast<std::size_t>(part.length));
    const result<void> done = co_await read_block(part, block, into);
    if (!done) co_return done;
    at = part.end();
  }
  co_return result<void>{};
}

/// `part` of the block `whole`, from wherever it is.
task<result<void>> http_storage::read_block(byte_range part, byte_range whole, std::span<std::byte> buffer) {
  const std::uint64_t index = whole.offset / block_bytes;
  const std::span<const std::byte> cached = cache_.find(index);
  if (!cached.empty()) {
    std::memcpy(buffer.data(), cached.data() + (part.offset - whole.offset), buffer.size());
    co_return result<void>{};
  }
  std::shared_ptr<fetch> coming = on_its_way(index);
  if (!coming) coming = begin_fetch(intersection(whole, {0, size()}));
  while (!coming->done) co_await arrived_.wait();
  if (!*coming->done) co_return *coming->done;
  std::memcpy(buffer.data(), coming->content.data() + (part.offset - coming->range.offset), buffer.size());
  co_return result<void>{};
}

void http_storage::read_ahead(byte_range read) {
  const std::uint64_t window = sequences_.note(read);
  if (window == 0 || read.end() >= size()) return;
  const std::uint64_t end = std::min(size(), align_up(read.end() + window, block_bytes));
  const byte_range missing = missing_from(read.end(), end);
  // Not before half of what was read ahead is used up.
  if (missing.empty() || missing.offset > read.end() + window / 2) return;
  begin_fetch(missing);
}

std::shared_ptr<fetch> http_storage::on_its_way(std::uint64_t block) const {
  const std::uint64_t offset = block * block_bytes;
  const auto after = fetches_.upper_bound(offset);
  if (after == fetches_.begin()) return nullptr;
  const std::shared_ptr<fetch>& before = std::prev(after)->second;
  return before->range.contains(offset) ? before : nullptr;
}

/// The first whole blocks from `offset` on, beginning before `end`, that are neither here nor on their way: at most one
/// transfer, cut to the object.
byte_range http_storage::missing_from(std::uint64_t offset, std::uint64_t end) const {
  const auto is_known = [this](std::uint64_t block) { return cache_.contains(block) || on_its_way(block); };
  const std::uint64_t past = align_up(std::min(end, size()), block_bytes) / block_bytes;
  std::uint64_t first = offset / block_bytes;
  while (first < past && is_known(first)) ++first;
  std::uint64_t last = first;
  const std::uint64_t most = first + longest_transfer / block_bytes;
  while (last < past && last < most && !is_known(last)) ++last;
  return intersection(range_between(first * block_bytes, last * block_bytes), {0, size()});
}

std::shared_ptr<fetch> http_storage::begin_fetch(byte_range blocks) {
  auto begun = std::make_shared<fetch>();
  begun->range = blocks;
  fetches_.emplace(blocks.offset, begun);
  ahead_.spawn(run_fetch(begun));
  return begun;
}

task<void> http_storage::run_fetch(std::shared_ptr<fetch> begun) {
  begun->content.resize(static_cast<std::size_t>(begun->range.length));
  const result<void> done = co_await source_.read(begun->range.offset, begun->content);
  if (done) {
    std::span<const std::byte> rest = begun->content;
    for (std::uint64_t index = begun->range.offset / block_bytes; !rest.empty(); ++index) {
      const std::size_t length = std::min<std::size_t>(block_bytes, rest.size());
      cache_.put(index, rest.first(length));
      rest = rest.subspan(length);
    }
  }
  begun->done = done;
  fetches_.erase(begun->range.offset);
  arrived_.notify_all();
}

task<result<storage_run>> http_storage::do_status(byte_range range) {
  co_return storage_run{range.length, false};
}

task<result<void>> http_storage::do_write(std::uint64_t, std::span<const std::byte>) {
  co_return errc::read_only;
}

task<result<void>> http_storage::do_flush() {
  co_return result<void>{};
}

task<result<void>> http_storage::do_zero(byte_range, zero_mode) {
  co_return errc::read_only;
}

task<result<void>> http_storage::do_discard(byte_range) {
  co_return errc::read_only;
}

task<result<void>> http_storage::do_truncate(std::uint64_t) {
  co_return errc::read_only;
}

task<result<void>> http_storage::do_close() {
  source_.close();
  co_await ahead_.join();
  co_return result<void>{};
}

}  // namespace

task<outcome<std::unique_ptr<storage>>> open_http_storage(executor context, http_target target,
                                                          http_client_settings settings) {
  auto opened = std::make_unique<http_storage>(context, std::move(target), settings);
  const outcome<void> connected = co_await opened->connect();
  if (!connected) co_return connected.error();
  co_return std::unique_ptr<storage>(std::move(opened));
}

}  // namespace weir
