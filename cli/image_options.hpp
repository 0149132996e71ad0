// The options that verbs on images share.
#pragma once

#include "cli/engine_host.hpp"
#include "cli/option_set.hpp"

#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace weir::cli {

/// -f FMT, -U, --allow-remote-backing, --passphrase-file, and how to reach NBD and web servers.
void declare_image_options(
    option_set& options,
    std::string_view tls_creds_help =
        "For nbds:// and https:// images: ca-cert.pem to verify the server with, and client-cert.pem "
        "with client-key.pem; or keys.psk alone, whose first key is used.");
/// --snapshot NAME|ID, for verbs that read.
void declare_snapshot_option(option_set& options);
/// What they ask for, to open an image for reading. Errors: usage (unknown format); a passphrase that cannot
/// be read.
outcome<image_settings> read_image_options(const given_options& given);

/// The format called that, as a usage failure where there is none.
outcome<const format_driver*> find_format(const std::string& name);

/// `-o a=b,c=d` (repeatable) as a map. Errors: usage.
outcome<std::map<std::string, std::string>> parse_format_options(const std::vector<std::string>& given);

}  // namespace weir::cli
