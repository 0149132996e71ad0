// A domain XML document and the disk models in it. The document tree is patched, never regenerated: what weir
// does not know stays, and an untouched document is written back byte for byte. Text outside the <disk>
// elements that changed keeps its bytes too.
//
// Roots: <domain>, a bare <disk>, and <domstatus>, <domainsnapshot>, <domaincheckpoint> with a <domain>
// inside. Only devices/disk counts. Spellings accepted: libvirt's (backingStore, mirror, the mirror of 2012)
// and those discussed on its list in 2012 (backingFile, backing); what changes is written in libvirt's modern
// form.
//
// Limits: 16 MiB, 512 levels, no DOCTYPE, UTF-8.
#pragma once

#include "engine/base/error.hpp"
#include "engine/block/model.hpp"

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace weir {

enum class xml_view {
  as_is,     ///< indexes and mirrors as the document has them
  inactive,  ///< without <source index=> and <mirror>, as a configuration is stored
};

class domain_document {
 public:
  /// `name` is shown in failures: "NAME:LINE:COLUMN: what".
  static outcome<domain_document> parse(std::string_view text, std::string_view name);
  static outcome<domain_document> load(const std::string& path);
  /// True if `head` (first bytes of a file) looks like XML rather than an image.
  static bool looks_like_xml(std::string_view head) noexcept;

  domain_document(domain_document&&) noexcept;
  domain_document& operator=(domain_document&&) noexcept;
  ~domain_document();

  const std::string& name() const noexcept;
  /// The disks in document order. Targets are unique; a bare <disk> may have none (empty).
  const std::vector<disk_model>& disks() const noexcept;
  /// Position of the disk with that target, or of the one whose active layer has that location if only one
  /// has.
  std::optional<std::size_t> find_disk(std::string_view target_or_path) const;

  /// The chain of disk `position` is `layers` from now on. One edit for every job's end: layers dropped
  /// (pull, commit), head replaced (pivot), head pushed (snapshot), detected layers filled in. Layers that
  /// were there before (same source and slice) keep their <source> subtree and everything unknown beside it;
  /// <driver type> follows the head. An index is written where a model has one. Precondition: at least one
  /// layer.
  void set_chain(std::size_t position, const std::vector<layer_model>& layers, bool terminated);
  /// Shows, changes or (nullopt) removes the disk's <mirror>.
  void set_mirror(std::size_t position, const std::optional<mirror_model>& mirror);

  std::string write(xml_view view = xml_view::as_is) const;

 private:
  struct content;
  explicit domain_document(std::unique_ptr<content> loaded) noexcept;
  std::unique_ptr<content> content_;
};

}  // namespace weir
