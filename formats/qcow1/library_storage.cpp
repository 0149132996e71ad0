#include "formats/qcow1/library_storage.hpp"

#include "formats/qcow1/reader_error.hpp"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <filesystem>
#include <span>

namespace weir::qcow1 {
namespace {

template <class T>
std::span<const std::byte> bytes_of(const T& value) {
  return std::as_bytes(std::span(&value, 1));
}

template <class T>
std::span<std::byte> space_of(T& value) {
  return std::as_writable_bytes(std::span(&value, 1));
}

bool is_from_library(const error_code& code) {
  return code == make_error_code(reader_errc::unreadable) || code == make_error_code(reader_errc::refused);
}

}  // namespace

std::string find_reader() {
  namespace fs = std::filesystem;
  std::error_code ignored;
  const fs::path own = fs::read_symlink("/proc/self/exe", ignored).parent_path();
  constexpr std::string_view name = "weir-qcow-reader";
  for (const fs::path& folder : {own, own / WEIR_LIBEXEC_FROM_BIN}) {
    const fs::path candidate = folder / name;
    if (::access(candidate.c_str(), X_OK) == 0) return candidate;
  }
  return {};
}

library_storage::library_storage(executor context, storage& image_file, const reader_setup& setup)
    : context_(context), file_(image_file), setup_(setup), turns_(context) {}

task<result<void>> library_storage::do_read(std::uint64_t offset, std::span<std::byte> buffer) {
  const std::uint64_t inside = offset < size() ? size() - offset : 0;
  const auto wanted = static_cast<std::size_t>(std::min<std::uint64_t>(buffer.size(), inside));
  std::ranges::fill(buffer.subspan(wanted), std::byte{0});
  buffer = buffer.first(wanted);
  const qcow2::async_lock::guard turn = co_await turns_.acquire();
  while (!buffer.empty()) {
    const auto part = buffer.first(std::min<std::size_t>(buffer.size(), longest_request));
    const result<void> got = co_await ask({offset, part.size()}, part);
    if (!got) co_return got;
    offset += part.size();
    buffer = buffer.subspan(part.size());
  }
  co_return result<void>{};
}

/// Leaves a helper behind that waits for the next request, or none.
task<result<void>> library_storage::ask(reader_request request, std::span<std::byte> into) {
  if (!helper_) {
    const result<void> started = co_await start();
    if (!started) co_return started;
  }
  result<void> done = co_await helper_->send(bytes_of(request));
  if (done) done = co_await take_answer(into);
  if (done || is_from_library(done.error())) co_return done;
  co_return co_await bury();
}

task<result<void>> library_storage::start() {
  const std::optional<int> file = file_.descriptor();
  const std::string path = find_reader();
  if (!file || path.empty()) co_return reader_errc::cannot_start;
  auto started = child_process::start(context_, path, *file);
  if (!started) co_return reader_errc::cannot_start;
  helper_ = std::move(*started);
  result<void> done = co_await helper_->send(bytes_of(setup_));
  if (done) done = co_await take_answer({});
  if (done) co_return done;
  const error_code end = co_await bury();
  if (is_from_library(done.error())) co_return reader_errc::refused;
  co_return end;
}

/// Errors: unreadable, where the helper said so and goes on; any other means that it is of no more use.
task<result<void>> library_storage::take_answer(std::span<std::byte> into) {
  reader_answer head;
  const result<void> got = co_await helper_->receive(space_of(head));
  if (!got) co_return got;
  if (head.status == reader_status::done) {
    if (head.length != into.size()) co_return reader_errc::died;
    if (into.empty()) co_return result<void>{};
    co_return co_await helper_->receive(into);
  }
  if (head.length > longest_text) co_return reader_errc::died;
  std::array<char, longest_text> text{};
  const auto words = std::span(text).first(head.length);
  const result<void> heard = co_await helper_->receive(std::as_writable_bytes(words));
  if (!heard) co_return heard;
  last_words_.assign(words.begin(), words.end());
  std::ranges::replace_if(last_words_, [](unsigned char c) { return c < 0x20 || c >= 0x7f; }, '?');
  co_return reader_errc::unreadable;
}

/// Why it ended, once it has.
task<error_code> library_storage::bury() {
  const std::unique_ptr<child_process> dead = std::move(helper_);
  const int status = co_await dead->end();
  if (WIFSIGNALED(status) && WTERMSIG(status) == SIGXCPU) co_return reader_errc::took_too_long;
  if (WIFEXITED(status) && WEXITSTATUS(status) == 127) co_return reader_errc::cannot_start;
  co_return reader_errc::died;
}

task<result<void>> library_storage::do_write(std::uint64_t, std::span<const std::byte>) {
  co_return errc::read_only;
}

task<result<void>> library_storage::do_flush() {
  co_return result<void>{};
}

task<result<void>> library_storage::do_zero(byte_range, zero_mode) {
  co_return errc::read_only;
}

task<result<void>> library_storage::do_discard(byte_range) {
  co_return errc::read_only;
}

task<result<void>> library_storage::do_truncate(std::uint64_t) {
  co_return errc::read_only;
}

task<result<storage_run>> library_storage::do_status(byte_range range) {
  co_return storage_run{range.length, false};
}

task<result<void>> library_storage::do_close() {
  const qcow2::async_lock::guard turn = co_await turns_.acquire();
  if (helper_) static_cast<void>(co_await bury());
  co_return result<void>{};
}

}  // namespace weir::qcow1
