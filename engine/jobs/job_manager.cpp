#include "engine/jobs/job_manager.hpp"

#include <algorithm>
#include <cassert>
#include <exception>
#include <string>

namespace weir {
namespace {

bool is_letter(char c) noexcept {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/// Ended for its disk, whether or not someone has yet to dismiss it.
bool has_ended(job_status status) noexcept {
  return status == job_status::concluded || status == job_status::null;
}

failure refuse(std::string what) {
  return {make_error_code(boost::system::errc::device_or_resource_busy), std::move(what)};
}

}  // namespace

bool is_well_formed_id(std::string_view id) noexcept {
  if (id.empty() || !is_letter(id.front())) return false;
  return std::ranges::all_of(
      id, [](char c) { return is_letter(c) || (c >= '0' && c <= '9') || c == '-' || c == '.' || c == '_'; });
}

job_manager::job_manager(executor context) : executor_(context), removed_(std::move(context)) {}

job_manager::~job_manager() {
  assert(jobs_.empty());
}

outcome<void> job_manager::may_start(std::string_view id, std::string_view disk_name) const {
  if (stopping_) return refuse("The engine is shutting down");
  // A disk's own name needs no other shape: that of a plain image is empty.
  if (id != disk_name && !is_well_formed_id(id)) {
    return failure{make_error_code(boost::system::errc::invalid_argument),
                   "Invalid job ID '" + std::string(id) + "'"};
  }
  for (const auto& each : jobs_) {
    if (each->disk_name() == disk_name && !has_ended(each->status())) {
      return refuse("Node '" + std::string(disk_name) +
                    "' is busy: block device is in use by block job: " + std::string(name_of(each->type())));
    }
  }
  if (reserved_.contains(disk_name)) {
    return refuse("Node '" + std::string(disk_name) + "' is busy: a block job is being started on it");
  }
  for (const auto& each : jobs_) {
    if (each->id() == id) return refuse("Job ID '" + std::string(id) + "' already in use");
  }
  return {};
}

job_manager::reservation job_manager::reserve(std::string disk_name) {
  return {*this, std::move(disk_name)};
}

outcome<void> job_manager::start(std::unique_ptr<job> created) {
  if (auto allowed = may_start(created->id(), created->disk_name()); allowed.has_error())
    return allowed.error();
  job* const started = jobs_.emplace_back(std::move(created)).get();
  started->set_listener(this);
  on_status(*started);
  start_task(executor_, run(this, started), [](std::exception_ptr thrown) {
    if (thrown) std::rethrow_exception(thrown);
  });
  return {};
}

task<void> job_manager::run(job_manager* manager, job* started) {
  co_await started->run();
  std::erase_if(manager->jobs_, [started](const auto& each) { return each.get() == started; });
  manager->removed_.notify_all();
}

job* job_manager::find(std::string_view id) noexcept {
  for (const auto& each : jobs_) {
    if (each->id() == id) return each.get();
  }
  return nullptr;
}

job* job_manager::find_by_disk(std::string_view disk_name) noexcept {
  for (const auto& each : jobs_) {
    if (each->disk_name() == disk_name && !has_ended(each->status())) return each.get();
  }
  return nullptr;
}

outcome<void> job_manager::set_speed(job& changed, std::uint64_t bytes_per_s) {
  if (auto set = changed.set_speed(bytes_per_s); set.has_error()) return set.error();
  for (job_observer* observer : observers_) observer->on_job_speed(changed);
  return {};
}

void job_manager::add_observer(job_observer& observer) {
  observers_.push_back(&observer);
}

void job_manager::remove_observer(job_observer& observer) noexcept {
  std::erase(observers_, &observer);
}

task<void> job_manager::wait_until_gone(std::string_view id) {
  const std::string wanted(id);
  while (find(wanted) != nullptr) co_await removed_.wait();
}

task<void> job_manager::stop() {
  stopping_ = true;
  for (job* each : jobs()) {
    // Refused only where the job is past cancelling: then it ends by itself.
    static_cast<void>(each->cancel());
    static_cast<void>(each->dismiss());
  }
  while (!jobs_.empty()) co_await removed_.wait();
}

std::vector<job*> job_manager::jobs() const {
  std::vector<job*> all;
  all.reserve(jobs_.size());
  for (const auto& each : jobs_) all.push_back(each.get());
  return all;
}

void job_manager::on_status(const job& changed) {
  for (job_observer* observer : observers_) observer->on_job_status(changed);
  if (stopping_ && changed.status() == job_status::concluded)
    static_cast<void>(find(changed.id())->dismiss());
}

void job_manager::on_ready(const job& changed) {
  for (job_observer* observer : observers_) observer->on_job_ready(changed);
}

void job_manager::on_error(const job& failed, bool is_read, std::string_view action) {
  for (job_observer* observer : observers_) observer->on_job_error(failed, is_read, action);
}

}  // namespace weir
