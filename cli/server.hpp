// What `weir serve` runs: the disks of one guest, their NBD exports, their jobs, the control socket.
//
// Start: open the disks → export them → listen → go on with recorded jobs → ready.
// End (signal or quit): jobs are cancelled (their records stay) → NBD requests in flight finish and clients are
// told → control clients are disconnected → the disks are flushed and closed.
#pragma once

#include "cli/engine_host.hpp"
#include "cli/named_disks.hpp"
#include "cli/served_exports.hpp"
#include "cli/service_manager.hpp"
#include "engine/control/control_server.hpp"
#include "engine/control/engine_control.hpp"
#include "engine/control/job_records.hpp"
#include "engine/jobs/commit.hpp"
#include "engine/jobs/job_manager.hpp"
#include "engine/nbd/listener.hpp"

#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace weir::cli {

struct serve_request {
  std::string named;  ///< DOMAIN.xml or IMAGE
  std::string control_path;
  std::vector<nbd::listen_address> nbd;
  std::vector<nbd::listen_address> plain_nbd;  ///< without TLS, whatever the policy says
  std::vector<passed_socket> passed;
  std::string state_directory;
  std::optional<std::string> export_name;  ///< of a plain image; none: the empty name
  std::vector<std::string> bitmaps;        ///< shown by each export whose active image has one of that name
  nbd_server_settings limits;
  nbd::listener_policy policy;  ///< of the NBD sockets of the command line, but for plain_nbd
  image_settings image;
  bool copy_on_read = false;
  bool update_xml = false;  ///< write the domain XML back when a chain has changed
};

/// One line on stderr, in serve's name.
void warn(const std::string& what);

class server final : public engine_control {
 public:
  server(engine_host& host, serve_request request);

  /// Serves until a signal or quit().
  task<outcome<int>> run();

  std::string_view version() const override;
  const std::vector<disk*>& disks() const override { return disks_; }
  cache_mode cache() const override { return request_.image.storage.cache; }
  job_manager& jobs() override { return jobs_; }
  export_control& exports() override { return exports_; }
  outcome<void> start_stream(stream_request request) override;
  task<outcome<void>> start_mirror(mirror_request request) override;
  task<outcome<void>> start_commit(commit_request request) override;
  task<outcome<prepared_backup>> prepare_backup(backup_request request) override;
  outcome<std::string> live_xml() override;
  void quit() override;

 private:
  task<outcome<void>> open_disks();
  outcome<void> export_disks();
  outcome<void> listen();
  outcome<void> listen_on_passed(const passed_socket& passed);
  outcome<void> resume_jobs();
  outcome<void> open_records();
  outcome<std::optional<std::string>> relative_name(const disk& target, std::size_t above,
                                                    std::size_t base_depth) const;
  outcome<commit_options> options_for(const commit_request& request, const disk& target);
  task<outcome<std::shared_ptr<layer>>> open_alone(layer_model model, bool writable);
  outcome<void> write_chain_back(const disk& changed) const;
  std::optional<mirror_model> mirror_of(const disk& source);
  task<outcome<void>> start();
  task<outcome<void>> close();

  engine_host& host_;
  serve_request request_;
  named_disks opened_;
  std::vector<disk*> disks_;
  job_manager jobs_;
  served_exports exports_;
  std::unique_ptr<job_records> records_;
  std::optional<control_server> control_;
  bool quitting_ = false;
};

}  // namespace weir::cli
