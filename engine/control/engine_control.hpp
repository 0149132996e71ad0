// What the control socket may do with the engine that runs it; implemented by `weir serve`.
#pragma once

#include "engine/base/error.hpp"
#include "engine/base/task.hpp"
#include "engine/block/disk.hpp"
#include "engine/jobs/backup_job.hpp"
#include "engine/jobs/job_manager.hpp"
#include "engine/jobs/mirror_job.hpp"
#include "engine/nbd/listener.hpp"
#include "engine/storage/local_file.hpp"

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace weir {

/// What nbd-server-start asks for.
struct nbd_server_request {
  nbd::listen_address where;
  std::uint32_t most_connections = 100;    ///< 0: no limit
  std::uint32_t handshake_timeout_s = 10;  ///< 0: no limit
  std::string tls_credentials;             ///< id given to add_credentials(); empty: no TLS
};

/// TLS credentials of a server as object-add names them.
struct credentials_settings {
  std::string id;
  std::string directory;
  bool pre_shared_keys = false;  ///< otherwise certificates
};

struct export_settings {
  std::string id;
  std::string node;  ///< the disk's name
  std::string name;  ///< what NBD clients ask for
  std::string description;
  bool writable = false;
  std::vector<std::string> bitmaps;  ///< dirty bitmaps of the active image to show
};

/// The NBD server as the control socket changes it. Failures carry QEMU's texts.
class export_control {
 public:
  virtual ~export_control() = default;
  virtual outcome<void> start_server(nbd_server_request asked) = 0;
  virtual task<outcome<void>> stop_server() = 0;
  virtual outcome<void> add(export_settings settings) = 0;
  /// `force` drops the clients; otherwise an export in use is refused.
  virtual task<outcome<void>> remove(std::string id, bool force) = 0;
  virtual std::vector<export_settings> list() const = 0;
  /// For start_server(). The files are read now.
  virtual outcome<void> add_credentials(credentials_settings settings) = 0;
  /// A running server keeps what it has.
  virtual outcome<void> remove_credentials(const std::string& id) = 0;
  /// Told of the id of every export that has gone.
  virtual void set_deleted_hook(std::function<void(const std::string& id)> hook) = 0;
};

/// One stream job as asked for, by block-stream or by a record of an earlier run.
struct stream_request {
  job_settings settings;
  std::string disk;
  std::string base;                         ///< chain::find_layer's words; empty: no layer stays
  std::optional<std::string> backing_name;  ///< to record for the layer that stays
  bool keep_relative = false;               ///< record it by a name relative to the active layer
};

/// One mirror job as asked for.
struct mirror_request {
  job_settings settings;
  std::string disk;
  std::string target;     ///< an IMAGE, as users name them
  std::string format;     ///< empty: that of the active layer; of an export: raw
  bool existing = false;  ///< the target is there; otherwise it is made
  std::string
      base;  ///< mirror_sync::top: chain::find_layer's words for the layer that is shared; empty: the first
  mirror_options options;
};

/// One commit job as asked for.
struct commit_request {
  job_settings settings;
  std::string disk;
  std::string top;                          ///< chain::find_layer's words; empty: the active layer
  std::string base;                         ///< the same; empty: the last layer
  std::optional<std::string> backing_name;  ///< intermediate: to record for the base
  bool keep_relative = false;               ///< record it by a name relative to the layer above the top
  bool deletes = false;                     ///< the files of the layers that are merged go, once all is well
};

/// One backup job as asked for.
struct backup_request {
  job_settings settings;
  std::string disk;
  std::string target;     ///< an IMAGE, as users name them
  std::string format;     ///< empty: that of the active layer; of an export: raw
  bool existing = false;  ///< the target is there; otherwise it is made, and gets its name once it is whole
  backup_options options;
};

/// A backup job that may be started at once.
struct prepared_backup {
  std::unique_ptr<backup_job> job;
  std::unique_ptr<job_manager::reservation>
      reserved;  ///< of the disk; to be ended right before the job starts
};

class engine_control {
 public:
  virtual ~engine_control() = default;
  virtual std::string_view version() const = 0;
  virtual const std::vector<disk*>& disks() const = 0;
  /// How the disks' local files are opened.
  virtual cache_mode cache() const = 0;
  virtual job_manager& jobs() = 0;
  virtual export_control& exports() = 0;
  /// Failures carry QEMU's texts.
  virtual outcome<void> start_stream(stream_request request) = 0;
  /// Opens or makes the target first.
  virtual task<outcome<void>> start_mirror(mirror_request request) = 0;
  /// Opens or makes the target. The disk is taken; nothing happens to it before the job's begin() or start.
  virtual task<outcome<prepared_backup>> prepare_backup(backup_request request) = 0;
  /// Opens the base for writing first.
  virtual task<outcome<void>> start_commit(commit_request request) = 0;
  /// The domain XML with every chain as it is now. Errors: not_supported without a domain.
  virtual outcome<std::string> live_xml() = 0;
  /// Asks the engine to drain and end; returns at once.
  virtual void quit() = 0;

  /// The disk of that name, or null.
  disk* find_disk(std::string_view name) const;
};

}  // namespace weir
