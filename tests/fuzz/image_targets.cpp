// Whole images in memory, opened as the top of a chain and used through a disk, as a guest would. The input is the
// file; its last bytes say in addition which operations the writing targets try.
#include "engine/block/disk.hpp"
#include "engine/block/open_chain.hpp"
#include "engine/storage/memory_storage.hpp"
#include "formats/qcow1/qcow1.hpp"
#include "formats/qcow2/header.hpp"
#include "formats/registry.hpp"
#include "tests/fuzz/fuzz_targets.hpp"
#include "tests/support/run_task.hpp"

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

namespace weir::fuzz {
namespace {

using bytes = std::vector<std::byte>;

constexpr std::uint64_t backing_size = 64 * KiB;
constexpr std::size_t most_runs = 400;
constexpr std::size_t script_bytes = 48;
constexpr std::uint64_t longest_request = 8 * KiB;

/// One engine for one input.
struct machine {
  boost::asio::io_context io{1};
  buffer_pool buffers{io.get_executor(), 64 * MiB};
  worker_pool workers{io.get_executor(), 0};
  engine_resources resources() { return {io.get_executor(), buffers, workers}; }
};

task<void> fill(storage& into, input_bytes content) {
  const result<void> written = co_await into.write(0, content);
  check(written.has_value(), "memory takes what is written");
}

/// The input below the name "top", zeros that repeat a byte below every other.
struct memory_opener {
  input_bytes top;
  storage* opened_top = nullptr;

  task<outcome<std::unique_ptr<storage>>> operator()(layer_source& source, bool) {
    return open(source.path == "top");
  }
  task<outcome<std::unique_ptr<storage>>> open(bool is_top) {
    std::unique_ptr<storage> made = std::make_unique<memory_storage>(is_top ? "top" : "backing");
    const bytes backing(backing_size, std::byte{0xb5});
    if (is_top) {
      co_await fill(*made, top);
      opened_top = made.get();
    } else {
      co_await fill(*made, backing);
    }
    co_return made;
  }
};

/// weir's own code for every format: qcow version 1 without the helper process.
const format_table& own_formats() {
  static const std::vector<format_driver> drivers = [] {
    std::vector<format_driver> all(formats().drivers().begin(), formats().drivers().end());
    for (format_driver& each : all) {
      if (each.name == "qcow") each.open = &qcow1::open_map;
    }
    return all;
  }();
  static const format_table table(drivers);
  return table;
}

task<std::unique_ptr<disk>> open_disk(engine_resources resources, memory_opener& files, std::string format,
                                      bool writable) {
  disk_model model;
  layer_model top;
  top.format = std::move(format);
  top.source.path = "top";
  model.layers.push_back(std::move(top));
  open_chain_options options;
  options.read_only = !writable;
  options.image.metadata_cache_bytes = 64 * KiB;
  const storage_opener opener = [&files](layer_source& source, bool write) { return files(source, write); };
  auto layers = co_await open_chain(model, own_formats(), opener, options);
  if (!layers) {
    check(!layers.error().what.empty() && !layers.error().what.contains('\n'), "a refusal is one line");
    co_return nullptr;
  }
  for (const auto& each : *layers) check(each->image->facts().size() < 100, "facts can be told");
  disk_settings settings{.name = "top", .read_only = !writable};
  co_return std::make_unique<disk>(resources, std::make_unique<chain>(std::move(*layers)),
                                   std::move(settings));
}

/// Status and content of the beginning and the end.
task<void> read_around(disk& of) {
  const std::uint64_t size = of.size();
  bytes buffer(longest_request);
  for (const std::uint64_t start : {std::uint64_t{0}, size / 2, size - std::min(size, 2 * longest_request)}) {
    std::uint64_t at = start;
    for (std::size_t runs = 0; at < size && runs < most_runs; ++runs) {
      const byte_range rest = range_between(at, size);
      const auto found = co_await of.status(rest, 1);
      std::uint64_t step = longest_request;
      if (found) {
        check(found->size() == 1 && found->front().length > 0, "a status makes progress");
        step = found->front().length;
      }
      const std::uint64_t length = std::min({step, size - at, longest_request});
      const auto part = std::span(buffer).first(static_cast<std::size_t>(length));
      const result<void> ignored = co_await of.read(at, part);
      static_cast<void>(ignored);
      at += std::min(std::max(step, length), size - at);
    }
  }
}

/// Operations spelled by bytes: 4 each (what, where, length).
class script {
 public:
  explicit script(input_bytes from) : rest_(from) {}
  bool at_end() const { return rest_.size() < 4; }
  struct step {
    unsigned what;
    byte_range range;
  };
  step next(std::uint64_t size) {
    const auto byte = [this](std::size_t at) { return std::to_integer<std::uint64_t>(rest_[at]); };
    const std::uint64_t where = byte(1) << 8 | byte(2);
    const std::uint64_t offset = std::min(where * 256, size);
    const std::uint64_t length = std::min({(byte(3) + 1) * 32, size - offset, longest_request});
    const step made{static_cast<unsigned>(byte(0) % 6), {offset, length}};
    rest_ = rest_.subspan(4);
    return made;
  }

 private:
  input_bytes rest_;
};

task<void> write_and_read_back(disk& of, byte_range range, std::byte value, bool fua) {
  const bytes data(static_cast<std::size_t>(range.length), value);
  const result<void> written = co_await of.write(range.offset, data, {.fua = fua});
  if (!written) co_return;
  bytes back(data.size());
  const result<void> read = co_await of.read(range.offset, back);
  check(!read || back == data, "what was written reads back");
}

task<void> run_step(disk& of, script::step step, std::byte value) {
  result<void> done;
  switch (step.what) {
    case 0:
      co_await write_and_read_back(of, step.range, value, false);
      break;
    case 1:
      co_await write_and_read_back(of, step.range, value, true);
      break;
    case 2:
      done = co_await of.zero(step.range, {});
      break;
    case 3:
      done = co_await of.discard(step.range, {});
      break;
    case 4:
      done = co_await of.flush();
      break;
    default: {
      bytes buffer(static_cast<std::size_t>(step.range.length));
      done = co_await of.read(step.range.offset, buffer);
    }
  }
}

task<void> run_script(disk& of, input_bytes words) {
  script steps(words);
  for (unsigned count = 1; !steps.at_end(); ++count) {
    const script::step next = steps.next(of.size());
    if (next.range.empty()) continue;
    co_await run_step(of, next, static_cast<std::byte>(count));
  }
}

task<void> use(engine_resources resources, input_bytes input, std::string format, bool writable) {
  memory_opener files{.top = input};
  const std::unique_ptr<disk> opened = co_await open_disk(resources, files, std::move(format), writable);
  if (!opened) co_return;
  if (writable) {
    co_await run_script(*opened, input.last(std::min(script_bytes, input.size())));
  } else {
    co_await read_around(*opened);
    bytes after(input.size());
    const result<void> read = co_await files.opened_top->read(0, after);
    check(read.has_value() && std::ranges::equal(after, input), "reading changes nothing");
  }
  const result<void> closed = co_await opened->close();
  static_cast<void>(closed);
}

void run_image(input_bytes input, std::string_view format, bool writable) {
  machine host;
  test::run(host.io, use(host.resources(), input, std::string(format), writable));
}

}  // namespace

void run_qcow2_header(input_bytes input) {
  // The size of the file is what the last bytes say, so that tables behind the header may be in it or not.
  constexpr std::size_t size_bytes = 8;
  if (input.size() < size_bytes) return;
  std::uint64_t file_size = 0;
  std::memcpy(&file_size, input.data() + input.size() - size_bytes, size_bytes);
  bytes cluster(input.begin(), input.end() - size_bytes);
  const auto cluster_size = qcow2::parse_cluster_size(cluster, "image");
  if (!cluster_size) return;
  cluster.resize(static_cast<std::size_t>(*cluster_size));
  const auto head = qcow2::parse_header(cluster, file_size, "image");
  if (!head) return;
  check(head->extensions_end <= *cluster_size, "extensions end in the header cluster");
  for (const qcow2::extension& each : head->extensions) {
    check(fits(each.data.offset, each.data.length, *cluster_size), "an extension lies in the header cluster");
  }
}

void run_qcow2_read(input_bytes input) {
  run_image(input, "qcow2", false);
}

void run_qcow2_write(input_bytes input) {
  run_image(input, "qcow2", true);
}

void run_qcow1_read(input_bytes input) {
  run_image(input, "qcow", false);
}

void run_qed_read(input_bytes input) {
  run_image(input, "qed", false);
}

void run_qed_write(input_bytes input) {
  run_image(input, "qed", true);
}

}  // namespace weir::fuzz
