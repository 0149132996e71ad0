// How a backing-file string names its image: a path, `proto[+transport]://…`, the old `nbd:`/`rbd:` colon
// forms or `json:{…}`. Pure text to model; nothing is opened. Rules: libvirt's storage_source_backingstore
// and QEMU's "Device URL syntax".
//
// A colon before the first slash decides "not a path": a file called `a:b` is written `./a:b`.
// Relative paths hang off the directory of the name by which the parent was opened; nothing is normalised and
// no symbolic link is followed.
#pragma once

#include "engine/base/error.hpp"
#include "engine/block/model.hpp"

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace weir {

struct parsed_backing {
  layer_source source;
  std::optional<storage_slice> slice;  ///< from json's "raw" driver
  std::string format;                  ///< only where the name itself implies it (fat:DIR)
  /// It carries credentials, which nobody follows who found them in an image: the layer must not be opened then. What
  /// the user names may (parse_image_name), where weir has a use for them: source.secrets.
  bool incomplete = false;
};

/// Longest string looked at; image headers hold at most 1023 bytes.
inline constexpr std::size_t max_backing_name_bytes = 64 * 1024;

/// What `text`, found in the header of the image at `parent`, names. A parent without a location leaves
/// relative names as they are. Never yields an "fd:N" path: a header cannot name an open descriptor.
outcome<parsed_backing> parse_backing_string(std::string_view text, const layer_source& parent);

/// The plain file that an image's header names as its data file, relative to the image. Anything else (json:,
/// fd:, a protocol) is refused: a header must not reach for what its reader may open and its writer may not
/// (CVE-2024-4467).
outcome<layer_source> parse_data_file_name(const std::string& name, const layer_source& image);

/// What an IMAGE argument of a command names: the same forms, and `fd:N`. Credentials are taken for http and https
/// (user and password in the URL, json's cookie) and refused elsewhere.
outcome<layer_model> parse_image_name(std::string_view text);

/// True for a string that parse_backing_string joins to the parent's directory.
bool is_relative_name(std::string_view text) noexcept;

/// The name to record in an overlay that skips layers, keeping names relative: `names` are the recorded names
/// of the links from the overlay down to the new backing layer. `asdf`,`test` → `test`;
/// `../volume/image2`,`../volume/image3` → `../volume/../volume/image3`. Nothing if a link is not relative.
std::optional<std::string> join_relative(const std::vector<std::string>& names);

}  // namespace weir
