// Mirror jobs of a server.
#include "cli/copy_target.hpp"
#include "cli/server.hpp"
#include "engine/jobs/mirror_job.hpp"

#include <utility>

namespace weir::cli {
namespace {

/// The layers that a shallow copy leaves out are those from there on.
outcome<void> find_base(const disk& source, mirror_request& request) {
  if (request.options.sync != mirror_sync::top || request.base.empty()) return {};
  const auto at = source.chain().find_layer(source.name(), request.base);
  if (!at || *at == 0)
    return failure{errc::out_of_range, "Can't find '" + request.base + "' in the backing chain"};
  request.options.base_depth = *at;
  return {};
}

}  // namespace

task<outcome<void>> server::start_mirror(mirror_request request) {
  disk* const source = find_disk(request.disk);
  if (source == nullptr)
    co_return failure{errc::out_of_range, "no disk '" + request.disk + "' is served here"};
  if (auto allowed = jobs_.may_start(request.settings.id, request.disk); allowed.has_error())
    co_return allowed;
  if (auto found = find_base(*source, request); found.has_error()) co_return found;
  // Opening the target takes turns in which another job could come.
  job_manager::reservation reserved = jobs_.reserve(request.disk);
  copy_target_request wanted{
      .target = request.target, .format = request.format, .existing = request.existing};
  if (request.options.sync == mirror_sync::top) wanted.layers = request.options.base_depth;
  auto opened = co_await open_copy_target(host_, *source, std::move(wanted), request_.image.storage);
  if (opened.has_error()) co_return opened.error();
  request.options.target_is_zero = request.options.target_is_zero || opened->is_zero;
  reserved.end();
  if (request_.update_xml) {
    request.options.chain_changed = [this](const disk& changed) { return write_chain_back(changed); };
  }
  co_return jobs_.start(std::make_unique<mirror_job>(
      *source, std::move(opened->target), std::move(request.settings), std::move(request.options)));
}

std::optional<mirror_model> server::mirror_of(const disk& source) {
  const job* const running = jobs_.find_by_disk(source.name());
  const bool commits = running != nullptr && running->type() == job_type::commit;
  if (!commits && (running == nullptr || running->type() != job_type::mirror)) return std::nullopt;
  const auto& copying = static_cast<const mirror_job&>(*running);
  const disk* const target = copying.target();
  // Of a commit in the middle of the chain libvirt shows nothing.
  if (target == nullptr || copying.is_one_phase()) return std::nullopt;
  mirror_model shown;
  shown.job = commits ? "active-commit" : "copy";
  const job_status status = running->status();
  shown.ready = status == job_status::ready || status == job_status::standby ? "yes" : "";
  for (const auto& each : target->chain().layers()) shown.layers.push_back(each->model);
  shown.terminated = true;
  return shown;
}

}  // namespace weir::cli
