// Backup jobs of a server.
#include "cli/copy_target.hpp"
#include "cli/server.hpp"
#include "engine/jobs/backup_job.hpp"

#include <utility>

namespace weir::cli {
namespace {

copy_target_request target_of(const backup_request& request) {
  copy_target_request wanted{
      .target = request.target, .format = request.format, .existing = request.existing};
  if (request.options.sync == backup_sync::top) wanted.layers = 1;
  wanted.unfinished = true;
  return wanted;
}

}  // namespace

task<outcome<prepared_backup>> server::prepare_backup(backup_request request) {
  disk* const source = find_disk(request.disk);
  if (source == nullptr) {
    co_return failure{errc::out_of_range, "no disk '" + request.disk + "' is served here"};
  }
  if (auto allowed = jobs_.may_start(request.settings.id, request.disk); allowed.has_error()) {
    co_return allowed.error();
  }
  prepared_backup prepared;
  prepared.reserved = std::make_unique<job_manager::reservation>(jobs_, request.disk);
  auto opened = co_await open_copy_target(host_, *source, target_of(request), request_.image.storage);
  if (opened.has_error()) co_return opened.error();
  request.options.target_is_zero = opened->is_zero && request.options.sync == backup_sync::full;
  if (request.options.encode && !opened->target->encoding()) {
    const std::string name = opened->target->name();
    static_cast<void>(co_await close_disk(*opened->target));
    co_return failure{errc::unsupported_feature, name + ": such images cannot be written compressed"};
  }
  if (opened->unfinished) {
    const std::shared_ptr<new_image> made = std::move(opened->unfinished);
    request.options.completed = [made] { return made->put_in_place(); };
  }
  prepared.job = std::make_unique<backup_job>(*source, std::move(opened->target), std::move(request.settings),
                                              std::move(request.options));
  if (auto ready = co_await prepared.job->prepare(); ready.has_error()) {
    co_await prepared.job->give_up();
    co_return ready.error();
  }
  co_return prepared;
}

}  // namespace weir::cli
