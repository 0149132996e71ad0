#include "engine/control/job_records.hpp"

#include "engine/base/durable_file.hpp"
#include "engine/control/arguments.hpp"

#include <boost/json/object.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <system_error>
#include <utility>

namespace weir {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

constexpr std::string_view suffix = ".job.json";
constexpr std::uintmax_t longest_record_bytes = 64 * 1024;
constexpr std::array<std::string_view, 4> policies{"report", "ignore", "stop", "enospc"};

/// A file name that any job id can be part of.
std::string file_name(const std::string& id) {
  std::string name = "job-";
  for (const char c : id) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-';
    std::array<char, 4> escaped{};
    std::snprintf(escaped.data(), escaped.size(), "_%02x", static_cast<unsigned char>(c));
    name += plain ? std::string(1, c) : std::string(escaped.data());
  }
  return name.append(suffix);
}

/// Replaces or removes one record durably. 0 or an errno value.
int apply(const std::string& directory, const std::string& file, const std::optional<std::string>& text) {
  const std::string path = directory + "/" + file;
  const result<void> done = text ? replace_file(path, *text) : remove_file(path);
  return done ? 0 : done.error().value();
}

outcome<stream_request> read_record(const fs::path& path) {
  std::error_code error;
  if (fs::file_size(path, error) > longest_record_bytes || error) {
    return make_failure(errc::not_this_format, path.string(), "is not a job record: too long or unreadable");
  }
  std::ifstream file(path, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  auto decoded = decode_job_record(text);
  if (decoded.has_error()) return make_failure(decoded.error().code, path.string(), decoded.error().what);
  return decoded;
}

}  // namespace

std::string encode_job_record(const stream_request& request) {
  json::object record{{"type", "stream"},
                      {"id", request.settings.id},
                      {"disk", request.disk},
                      {"speed", static_cast<std::int64_t>(request.settings.speed_bytes_per_s)},
                      {"on-error", policies[static_cast<std::size_t>(request.settings.error_policy)]},
                      {"auto-finalize", request.settings.auto_finalize},
                      {"auto-dismiss", request.settings.auto_dismiss},
                      {"base", request.base},
                      {"keep-relative", request.keep_relative}};
  if (request.backing_name) record["backing-name"] = *request.backing_name;
  return json::serialize(record) + "\n";
}

outcome<stream_request> decode_job_record(std::string_view text) {
  json::error_code problem;
  const json::value parsed = json::parse(text, problem);
  if (problem || !parsed.is_object()) return failure{errc::not_this_format, "is not a job record"};
  constexpr std::array<std::string_view, 1> types{"stream"};
  argument_reader reader(parsed.get_object());
  stream_request request;
  reader.word("type", types);
  request.settings.id = reader.string("id");
  request.disk = reader.string("disk");
  const std::int64_t speed = reader.integer("speed");
  request.settings.error_policy = static_cast<on_error>(reader.word("on-error", policies));
  request.settings.auto_finalize = reader.boolean("auto-finalize");
  request.settings.auto_dismiss = reader.boolean("auto-dismiss");
  request.base = reader.string("base");
  request.keep_relative = reader.boolean("keep-relative");
  request.backing_name = reader.optional_string("backing-name");
  const auto checked = reader.finish();
  if (checked.has_error()) return failure{errc::not_this_format, checked.error().description};
  if (speed < 0) return failure{errc::not_this_format, "Parameter 'speed' expects a non-negative value"};
  request.settings.speed_bytes_per_s = static_cast<std::uint64_t>(speed);
  return request;
}

job_records::job_records(std::string directory, executor context, worker_pool& workers, job_manager& jobs)
    : directory_(std::move(directory)), workers_(workers), jobs_(jobs), tasks_(std::move(context)) {
  jobs_.add_observer(*this);
}

job_records::~job_records() {
  jobs_.remove_observer(*this);
}

outcome<std::unique_ptr<job_records>> job_records::open(std::string directory, executor context,
                                                        worker_pool& workers, job_manager& jobs) {
  if (::mkdir(directory.c_str(), S_IRWXU) != 0 && errno != EEXIST) {
    return make_failure(errno_code(errno), directory);
  }
  struct stat found{};
  if (::stat(directory.c_str(), &found) != 0) return make_failure(errno_code(errno), directory);
  if (!S_ISDIR(found.st_mode)) return make_failure(errno_code(ENOTDIR), directory);
  if (::access(directory.c_str(), W_OK | X_OK) != 0) return make_failure(errno_code(errno), directory);
  return std::unique_ptr<job_records>(
      new job_records(std::move(directory), std::move(context), workers, jobs));
}

outcome<job_records::found_records> job_records::load() const {
  found_records found;
  std::error_code error;
  fs::directory_iterator entries(directory_, error);
  for (; !error && entries != fs::directory_iterator(); entries.increment(error)) {
    if (!entries->path().filename().string().ends_with(suffix)) continue;
    auto record = read_record(entries->path());
    if (record.has_value()) {
      found.requests.push_back(std::move(*record));
    } else {
      found.problems.push_back(record.error());
    }
  }
  if (error) return make_failure(errno_code(error.value()), directory_);
  return found;
}

void job_records::expect(const stream_request& request) {
  by_id_[request.settings.id] = request;
}

void job_records::on_job_status(const job& changed) {
  const auto found = by_id_.find(changed.id());
  if (found == by_id_.end()) return;
  if (changed.status() == job_status::created) return write(found->second);
  if (changed.status() != job_status::concluded) return;
  if (!jobs_.stopping()) submit({file_name(changed.id()), std::nullopt});
  by_id_.erase(found);
}

void job_records::on_job_speed(const job& changed) {
  const auto found = by_id_.find(changed.id());
  if (found == by_id_.end()) return;
  found->second.settings.speed_bytes_per_s = changed.settings().speed_bytes_per_s;
  write(found->second);
}

void job_records::write(const stream_request& request) {
  submit({file_name(request.settings.id), encode_job_record(request)});
}

void job_records::submit(change next) {
  changes_.push_back(std::move(next));
  if (changes_.size() == 1) tasks_.spawn(write_changes());
}

task<void> job_records::write_changes() {
  while (!changes_.empty()) {
    const change& next = changes_.front();
    auto work = [this, &next] { return apply(directory_, next.file, next.text); };
    const int error = co_await workers_.run(work);
    if (error != 0) problem_ = make_failure(errno_code(error), directory_ + "/" + next.file);
    changes_.pop_front();
  }
}

task<void> job_records::settle() {
  co_await tasks_.join();
}

std::optional<failure> job_records::take_problem() {
  return std::exchange(problem_, std::nullopt);
}

}  // namespace weir
