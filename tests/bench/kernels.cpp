// The kernels of the data path by themselves, with Google Benchmark: zero scan, map lookup, request parsing. Run by
// `scripts/bench --what kernels`.
#include "engine/base/zero_scan.hpp"
#include "engine/block/chain.hpp"
#include "engine/block/image.hpp"
#include "engine/nbd/request_rules.hpp"
#include "engine/storage/simulated_storage.hpp"
#include "formats/registry.hpp"
#include "tests/support/run_task.hpp"

#include <benchmark/benchmark.h>
#include <boost/asio/io_context.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace weir::bench {
namespace {

void count_bytes(benchmark::State& state, std::size_t length) {
  state.SetBytesProcessed(static_cast<std::int64_t>(length) * state.iterations());
}

/// A buffer of nothing but zeros: all of it has to be looked at.
void zero_scan(benchmark::State& state) {
  const std::vector<std::byte> buffer(static_cast<std::size_t>(state.range(0)));
  for (auto _ : state) benchmark::DoNotOptimize(is_all_zero(buffer));
  count_bytes(state, buffer.size());
}
BENCHMARK(zero_scan)->Arg(4096)->Arg(65536)->Arg(1 << 20);

/// Every second granule of 4 KiB has a byte at its end.
void zero_runs(benchmark::State& state) {
  std::vector<std::byte> buffer(static_cast<std::size_t>(state.range(0)));
  for (std::size_t at = 4095; at < buffer.size(); at += 8192) buffer[at] = std::byte{1};
  for (auto _ : state) benchmark::DoNotOptimize(non_zero_runs(buffer, 4096));
  count_bytes(state, buffer.size());
}
BENCHMARK(zero_runs)->Arg(1 << 20);

/// A chain of qcow2 images in memory, 64 MiB each; the base owns every cluster, the others every depth-th. Only the active
/// one is open for writing, and all metadata has been read.
class memory_chain {
 public:
  static constexpr std::uint64_t size = 64 * MiB;

  explicit memory_chain(std::size_t depth) {
    std::vector<std::shared_ptr<layer>> layers;
    for (std::size_t index = 0; index < depth; ++index) {
      make(index, depth);
      auto owned = std::make_shared<layer>();
      owned->model.format = "qcow2";
      owned->image = open(index, index + 1 == depth);
      layers.insert(layers.begin(), std::move(owned));
    }
    chain_ = std::make_unique<chain>(std::move(layers));
    for (std::uint64_t at = 0; at < size; at += cluster) {
      if (!test::run(io_, chain_->lookup({at, cluster}, {}, map_effort::locate))) fail("look up");
    }
  }
  ~memory_chain() { static_cast<void>(test::run(io_, chain_->close())); }

  const chain& get() const noexcept { return *chain_; }

 private:
  static constexpr std::uint64_t cluster = 64 * KiB;

  [[noreturn]] static void fail(const std::string& what) { throw std::runtime_error(what + " failed"); }

  std::unique_ptr<image> open(std::size_t index, bool writable) {
    auto bytes = std::make_unique<simulated_storage>(*disks_[index]);
    auto opened = test::run(io_, formats().find("qcow2")->open(std::move(bytes), {.writable = writable}));
    if (!opened) fail("open");
    return std::move(*opened);
  }

  void make(std::size_t index, std::size_t depth) {
    disks_.push_back(std::make_unique<simulated_disk>(0, power_));
    image_create_options options;
    options.virtual_size = size;
    if (index > 0) options.backing = backing_reference{"layer" + std::to_string(index - 1), "qcow2", false};
    simulated_storage into(*disks_.back());
    if (!test::run(io_, formats().find("qcow2")->create(into, options))) fail("create");
    const std::unique_ptr<image> made = open(index, true);
    for (std::uint64_t at = index * cluster; at < size; at += (index == 0 ? 1 : depth) * cluster) {
      const result<allocation> reserved = test::run(io_, made->allocate({at, cluster}));
      if (!reserved || !test::run(io_, made->publish(*reserved))) fail("allocate");
    }
    if (!test::run(io_, made->close())) fail("close");
  }

  boost::asio::io_context io_;
  power_supply power_;
  std::vector<std::unique_ptr<simulated_disk>> disks_;
  std::unique_ptr<chain> chain_;
};

/// Who owns 4 KiB somewhere, and where it is. The argument is the chain's depth.
void map_lookup(benchmark::State& state) {
  const memory_chain tested(static_cast<std::size_t>(state.range(0)));
  std::mt19937_64 random(1);
  std::vector<std::uint64_t> offsets(4096);
  for (std::uint64_t& each : offsets) each = random() % (memory_chain::size / 4096) * 4096;
  std::size_t at = 0;
  for (auto _ : state) {
    const byte_range range{offsets[at++ % offsets.size()], 4096};
    const auto found = tested.get().try_lookup(range, {}, map_effort::locate);
    if (!found || !*found) state.SkipWithError("the answer did not come at once");
  }
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(map_lookup)->Arg(1)->Arg(3)->Arg(16)->Arg(64)->Arg(200);

/// Decoding a READ's header and ruling on it.
void request_parse(benchmark::State& state) {
  nbd::session_terms terms;
  terms.facts.size = std::uint64_t{1} << 30;
  terms.structured = true;
  std::array<std::byte, nbd::request_size> header{};
  store_big(header.data(), nbd::request_magic);
  store_big(header.data() + 8, std::uint64_t{77});
  store_big(header.data() + 16, std::uint64_t{1} << 20);
  store_big(header.data() + 24, std::uint32_t{4096});
  for (auto _ : state) {
    const nbd::request asked = nbd::decode_request(header, terms);
    const nbd::ruling ruled = nbd::rule_on(asked, terms, false);
    if (ruled.what != nbd::ruling::action::execute) state.SkipWithError("the request was refused");
  }
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(request_parse);

}  // namespace
}  // namespace weir::bench

BENCHMARK_MAIN();
