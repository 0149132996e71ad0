// `DOMAIN.xml | IMAGE` as models: described, or completed by opening the chains for a moment.
#pragma once

#include "cli/engine_host.hpp"
#include "xml/domain_document.hpp"

#include <optional>
#include <string>
#include <vector>

namespace weir::cli {

struct described_disks {
  std::optional<domain_document> document;  ///< none for a plain image
  std::vector<disk_model> disks;            ///< of a domain: each of the document, in its order
};

/// True if the file starts like a document rather than an image.
bool is_domain_file(const std::string& path);
/// Parses only. An image becomes a disk without a target whose one layer is not terminated.
outcome<described_disks> describe_disks(const std::string& named, const image_settings& settings);
/// Opens every chain read-only, notes what was found and closes it again. Layers are numbered from disk to disk. A
/// missing file of a disk with startupPolicy optional leaves that disk without layers. Failures name the disk.
/// `host` and `disks` must outlive the task.
task<outcome<void>> complete_disks(engine_host& host, std::vector<disk_model>& disks,
                                   image_settings settings);
/// Numbers what is described, as complete_disks would.
void number_disks(std::vector<disk_model>& disks);

/// Configurations carry no invented indexes.
std::vector<layer_model> without_invented_indexes(std::vector<layer_model> layers);

}  // namespace weir::cli
