// Commit jobs of a server.
#include "cli/server.hpp"
#include "engine/block/open_chain.hpp"
#include "engine/jobs/commit.hpp"
#include "formats/registry.hpp"

#include <unistd.h>

#include <cerrno>
#include <utility>

namespace weir::cli {
namespace {

failure no_layer(const std::string& spec) {
  return failure{errc::out_of_range, "Can't find '" + spec + "' in the backing chain"};
}

/// What was merged is of no more use. Only files of this machine are removed.
void remove_file(const layer_model& dropped) {
  if (dropped.source.type != "file" || !dropped.source.fd_group.empty()) return;
  if (::unlink(dropped.source.path.c_str()) == 0) return;
  warn(make_failure(errno_code(errno), dropped.source.path, "could not be removed").what);
}

}  // namespace

task<outcome<std::shared_ptr<layer>>> server::open_alone(layer_model model, bool writable) {
  disk_model alone;
  alone.layers.push_back(std::move(model));
  alone.terminated = true;
  open_chain_options options;
  options.read_only = !writable;
  options.allow_remote_backing = true;  // the chain was opened with it, or its names were given
  const storage_opener opener = host_.opener(request_.image.storage);
  auto layers = co_await open_chain(alone, formats(), opener, options);
  if (layers.has_error()) co_return layers.error();
  co_return std::move(layers->front());
}

outcome<commit_options> server::options_for(const commit_request& request, const disk& target) {
  const chain& layers = target.chain();
  commit_options options;
  if (layers.depth() < 2) {
    return failure{errc::not_supported, "disk '" + target.name() + "' has no backing image to commit to"};
  }
  if (!request.top.empty()) {
    const auto top = layers.find_layer(target.name(), request.top);
    if (!top) return no_layer(request.top);
    options.top_depth = *top;
  }
  options.base_depth = layers.depth() - 1;
  if (!request.base.empty()) {
    const auto base = layers.find_layer(target.name(), request.base);
    if (!base || *base == 0) return no_layer(request.base);
    options.base_depth = *base;
  }
  if (options.base_depth <= options.top_depth) {
    return failure{errc::not_supported,
                   "disk '" + target.name() + "': the base of a commit has to be below its top"};
  }
  for (const std::size_t depth : {options.top_depth, options.base_depth}) {
    const layer_source& source = layers.at(depth)->model.source;
    if (depth == 0 || (source.fd_group.empty() && !source.path.starts_with("fd:"))) continue;
    return failure{errc::not_supported, describe(source) + ": is a descriptor, and cannot be opened anew"};
  }
  options.backing_name = request.backing_name;
  if (request.keep_relative && options.top_depth > 0) {
    auto name = relative_name(target, options.top_depth - 1, options.base_depth);
    if (name.has_error()) return name.error();
    options.backing_name = *name;
  }
  options.open = [this](const layer_model& model, bool writable) { return open_alone(model, writable); };
  if (request_.update_xml) {
    options.chain_changed = [this](const disk& changed) { return write_chain_back(changed); };
  }
  if (request.deletes) options.dropped = remove_file;
  return options;
}

task<outcome<void>> server::start_commit(commit_request request) {
  disk* const target = find_disk(request.disk);
  if (target == nullptr) {
    co_return failure{errc::out_of_range, "no disk '" + request.disk + "' is served here"};
  }
  if (auto allowed = jobs_.may_start(request.settings.id, request.disk); allowed.has_error())
    co_return allowed;
  auto options = options_for(request, *target);
  if (options.has_error()) co_return options.error();
  // Opening the base takes turns in which another job could come.
  job_manager::reservation reserved = jobs_.reserve(request.disk);
  auto made = co_await make_commit_job(*target, request.settings, std::move(*options));
  if (made.has_error()) co_return made.error();
  reserved.end();
  co_return jobs_.start(std::move(*made));
}

}  // namespace weir::cli
