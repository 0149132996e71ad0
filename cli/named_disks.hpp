// `DOMAIN.xml | IMAGE`: the disks that one argument names.
#pragma once

#include "cli/engine_host.hpp"
#include "xml/domain_document.hpp"

#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace weir::cli {

struct named_disks {
  std::optional<domain_document> document;  ///< none for a plain image
  /// Of a domain: in document order, without drives that are empty, or optional (startupPolicy) and missing.
  std::vector<std::unique_ptr<disk>> disks;
  std::vector<std::size_t> positions;  ///< of a domain: the disks' places in the document
};

/// Opens every disk named. A plain image becomes a disk called as `image_disk_name`, or as the image. Disks of a
/// domain are read-only where their XML says so. On failure everything opened is closed. `host` must outlive the
/// task and the disks.
task<outcome<named_disks>> open_named_disks(engine_host& host, std::string named, image_settings settings,
                                            std::optional<std::string> image_disk_name = std::nullopt);

/// Closes all; the first failure is returned.
task<outcome<void>> close_disks(std::vector<std::unique_ptr<disk>>& disks);

}  // namespace weir::cli
