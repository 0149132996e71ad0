// Makes the files that TLS needs, as QEMU names them: an authority, a certificate for the server, one for a client, and
// a pre-shared key. For people who have no authority of their own; the authority's key is kept (ca-key.pem), so that
// later calls can add clients.
#pragma once

#include "engine/base/error.hpp"

#include <string>
#include <vector>

namespace weir::nbd {

struct tls_plan {
  std::string directory;  ///< made with mode 0700 if missing
  std::vector<std::string>
      hosts;  ///< names and addresses that clients call the server by; the first is its name
  std::string client = "client";  ///< the client certificate's common name and the key's name
  unsigned days = 3650;           ///< how long the certificates are valid
};

/// Makes ca-cert.pem ca-key.pem server-cert.pem server-key.pem client-cert.pem client-key.pem keys.psk; keys have mode
/// 0600. Nothing is replaced: a failure names the file that exists, and leaves what was there as it was. Failures
/// otherwise remove what was made.
outcome<void> make_tls_files(const tls_plan& plan);

/// A client certificate from the authority in plan.directory, written to plan.directory/NAME: client-cert.pem,
/// client-key.pem and ca-cert.pem, and a key for NAME in keys.psk there and in plan.directory.
outcome<void> add_tls_client(const tls_plan& plan);

}  // namespace weir::nbd
