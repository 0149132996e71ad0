#include "cli/server.hpp"

#include "cli/described_disks.hpp"
#include "cli/help.hpp"
#include "cli/plain_line.hpp"
#include "engine/base/durable_file.hpp"
#include "engine/block/backing_name.hpp"
#include "engine/block/bitmap_store.hpp"
#include "engine/jobs/stream_job.hpp"

#include <poll.h>
#include <unistd.h>

#include <cstdio>
#include <set>
#include <utility>

namespace weir::cli {
namespace {

/// False where nobody reads what is written to stderr: a guest's errors must not make the engine wait for that.
bool can_be_told() {
  pollfd out{STDERR_FILENO, POLLOUT, 0};
  return ::poll(&out, 1, 0) > 0 && (out.revents & POLLOUT) != 0;
}

/// Errors that guests see as a number, for whoever runs the server. A guest may ask again and again: what was said
/// last is not said again.
void report_errors(engine_host& host) {
  host.set_report([last = std::string()](const failure& what) mutable {
    if (what.what == last || !can_be_told()) return;
    last = what.what;
    warn(last);
  });
}

/// Those of `wanted` that the disk's active image has.
std::vector<std::string> bitmaps_of(const disk& of, const std::vector<std::string>& wanted) {
  const bitmap_store* const known = of.chain().active().image->bitmaps();
  std::vector<std::string> found;
  for (const std::string& name : wanted) {
    if (known != nullptr && known->find(name) != nullptr) found.push_back(name);
  }
  return found;
}

failure no_base(const std::string& base) {
  return {errc::out_of_range, "Can't find '" + base + "' in the backing chain"};
}

}  // namespace

void warn(const std::string& what) {
  std::fprintf(stderr, "weir: serve: %s\n", plain_line(what).c_str());
}

server::server(engine_host& host, serve_request request)
    : host_(host),
      request_(std::move(request)),
      jobs_(host.context()),
      exports_(host.context(), [this](std::string_view name) { return find_disk(name); }) {
  report_errors(host);
}

std::string_view server::version() const {
  return cli::version;
}

task<outcome<void>> server::open_disks() {
  auto opened =
      co_await open_named_disks(host_, request_.named, request_.image, request_.export_name.value_or(""));
  if (opened.has_error()) co_return opened.error();
  opened_ = std::move(*opened);
  if (request_.export_name && opened_.document) {
    co_return failure{
        errc::not_supported,
        request_.named + ": is a domain: each disk is an export named by its target, leave --export out"};
  }
  if (request_.update_xml && !opened_.document) {
    co_return failure{errc::not_supported, request_.named + ": is an image: there is no XML to update"};
  }
  for (const auto& each : opened_.disks) {
    disks_.push_back(each.get());
    if (request_.copy_on_read && !each->read_only()) each->set_copy_on_read(true);
  }
  co_return outcome<void>{};
}

outcome<void> server::export_disks() {
  request_.limits.report = [](const failure& what) { warn(what.what); };
  exports_.configure(request_.limits, request_.policy);
  std::set<std::string> shown;
  for (const disk* each : disks_) {
    export_settings settings;
    settings.id = each->name();
    settings.node = each->name();
    settings.name = each->name();
    settings.writable = !each->read_only();
    settings.bitmaps = bitmaps_of(*each, request_.bitmaps);
    shown.insert(settings.bitmaps.begin(), settings.bitmaps.end());
    if (auto added = exports_.add_at_start(std::move(settings)); added.has_error()) return added;
  }
  for (const std::string& name : request_.bitmaps) {
    if (shown.contains(name)) continue;
    return failure{errc::out_of_range, request_.named + ": no active image has a bitmap '" + name + "'"};
  }
  return {};
}

outcome<void> server::listen_on_passed(const passed_socket& passed) {
  if (passed.name != "control") return exports_.listen(nbd::descriptor_address{passed.descriptor});
  if (!control_) control_.emplace(host_.context(), *this);
  return control_->listen_on(passed.descriptor);
}

outcome<void> server::listen() {
  for (const nbd::listen_address& address : request_.nbd) {
    if (auto listening = exports_.listen(address); listening.has_error()) return listening;
  }
  for (const nbd::listen_address& address : request_.plain_nbd) {
    if (auto listening = exports_.listen_plainly(address); listening.has_error()) return listening;
  }
  for (const passed_socket& passed : request_.passed) {
    if (auto listening = listen_on_passed(passed); listening.has_error()) return listening;
  }
  if (request_.control_path.empty()) return {};
  if (control_)
    return failure{errc::not_supported, "a control socket was passed already; leave --control out"};
  control_.emplace(host_.context(), *this);
  return control_->listen(request_.control_path);
}

outcome<void> server::open_records() {
  if (request_.state_directory.empty()) return {};
  auto records =
      job_records::open(request_.state_directory, host_.context(), host_.resources().workers, jobs_);
  if (records.has_error()) return records.error();
  records_ = std::move(*records);
  return {};
}

outcome<void> server::resume_jobs() {
  if (!records_) return {};
  auto found = records_->load();
  if (found.has_error()) return found.error();
  for (const failure& problem : found->problems) warn(problem.what);
  for (stream_request& request : found->requests) {
    const std::string id = request.settings.id;
    const outcome<void> started = start_stream(std::move(request));
    if (started.has_error()) warn("job '" + id + "' cannot be resumed: " + started.error().what);
  }
  return {};
}

task<outcome<void>> server::start() {
  // Disks first: whoever holds the images' locks may replace a stale socket.
  if (auto opened = co_await open_disks(); opened.has_error()) co_return opened;
  if (auto exported = export_disks(); exported.has_error()) co_return exported;
  if (auto recorded = open_records(); recorded.has_error()) co_return recorded;
  if (auto listening = listen(); listening.has_error()) co_return listening;
  co_return resume_jobs();
}

task<outcome<int>> server::run() {
  const outcome<void> started = co_await start();
  if (started.has_value()) {
    std::puts("weir: ready");
    std::fflush(stdout);
    notify_service_manager("READY=1");
    while (!host_.interrupted() && !quitting_) co_await host_.wait_for_interrupt();
    notify_service_manager("STOPPING=1");
  }
  const outcome<void> closed = co_await close();
  if (started.has_error()) co_return started.error();
  if (closed.has_error()) co_return closed.error();
  co_return 0;
}

task<outcome<void>> server::close() {
  co_await jobs_.stop();
  co_await exports_.close();
  if (control_) co_await control_->stop();
  control_.reset();
  if (records_) {
    co_await records_->settle();
    if (const auto problem = records_->take_problem()) warn(problem->what);
  }
  records_.reset();
  disks_.clear();
  co_return co_await close_disks(opened_.disks);
}

/// The base's name seen from the layer `above`, relative as the names between them are.
outcome<std::optional<std::string>> server::relative_name(const disk& target, std::size_t above,
                                                          std::size_t base_depth) const {
  std::vector<std::string> links;
  for (std::size_t depth = above + 1; depth <= base_depth; ++depth) {
    links.push_back(target.chain().at(depth)->model.recorded_name);
  }
  auto joined = join_relative(links);
  if (joined) return joined;
  return failure{errc::not_supported, "disk '" + target.name() + "': a backing name on the way to '" +
                                          describe(target.chain().at(base_depth)->model.source) +
                                          "' is not relative, so none can be kept relative"};
}

outcome<void> server::start_stream(stream_request request) {
  disk* const target = find_disk(request.disk);
  if (target == nullptr) return failure{errc::out_of_range, "no disk '" + request.disk + "' is served here"};
  if (target->read_only()) {
    return failure{errc::read_only,
                   "disk '" + request.disk + "' is read-only: nothing can be streamed into it"};
  }
  stream_options options;
  if (!request.base.empty()) {
    const auto at = target->chain().find_layer(target->name(), request.base);
    if (!at || *at == 0) return no_base(request.base);
    options.base_depth = *at;
    // Indexes are given anew when the disk is opened again; the location stays.
    request.base = describe(target->chain().at(*at)->model.source);
  }
  options.backing_name = request.backing_name;
  if (request.keep_relative && options.base_depth < target->chain().depth()) {
    auto name = relative_name(*target, 0, options.base_depth);
    if (name.has_error()) return name.error();
    options.backing_name = *name;
  }
  if (request_.update_xml) {
    options.chain_changed = [this](const disk& changed) { return write_chain_back(changed); };
  }
  auto created = std::make_unique<stream_job>(*target, request.settings, std::move(options));
  if (auto allowed = jobs_.may_start(request.settings.id, request.disk); allowed.has_error()) return allowed;
  if (records_) records_->expect(request);
  return jobs_.start(std::move(created));
}

outcome<void> server::write_chain_back(const disk& changed) const {
  // From the file, not from the live document: only this disk's chain is to change, and what others wrote stays.
  outcome<domain_document> document = domain_document::load(request_.named);
  if (document.has_error()) return document.error();
  const auto position = document->find_disk(changed.name());
  if (!position) {
    return failure{errc::out_of_range, request_.named + ": has no disk '" + changed.name() + "' any more"};
  }
  std::vector<layer_model> layers;
  for (const auto& each : changed.chain().layers()) layers.push_back(each->model);
  document->set_chain(*position, without_invented_indexes(std::move(layers)), true);
  const result<void> written = replace_file(request_.named, document->write());
  if (!written) return make_failure(written.error(), request_.named);
  return {};
}

outcome<std::string> server::live_xml() {
  if (!opened_.document) {
    return failure{errc::not_supported,
                   request_.named + ": is an image, not a domain: there is no XML to show"};
  }
  for (std::size_t at = 0; at < disks_.size(); ++at) {
    std::vector<layer_model> layers;
    for (const auto& each : disks_[at]->chain().layers()) layers.push_back(each->model);
    opened_.document->set_chain(opened_.positions[at], layers, true);
    opened_.document->set_mirror(opened_.positions[at], mirror_of(*disks_[at]));
  }
  return opened_.document->write();
}

void server::quit() {
  quitting_ = true;
  host_.end_waiting();
}

}  // namespace weir::cli
