// Opens what layers' sources name: local files, block devices, descriptors handed in, exports of NBD servers, and objects
// on web servers.
#pragma once

#include "engine/block/open_chain.hpp"
#include "engine/storage/http_target.hpp"
#include "engine/storage/local_file.hpp"
#include "engine/storage/nbd_target.hpp"

#include <string>

namespace weir {

struct opener_settings {
  cache_mode cache = cache_mode::writeback;
  image_locking locking = image_locking::exclusive;
  nbd_client_settings nbd = {};
  http_client_settings http = {};
  std::string tls_directory =
      {};  ///< the client's certificates, nbd_target::tls_directory, http_target::ca_directory
};

/// A path of "fd:N", or an fd_group of N, is descriptor N and no path is opened. A file that turns out to be a block
/// device gets source.type "block". Protocols other than nbd, http and https are refused by name. `io` must outlive what is opened.
storage_opener make_storage_opener(file_io& io, opener_settings settings);

}  // namespace weir
