#include "cli/image_options.hpp"

#include "cli/passphrase.hpp"
#include "formats/registry.hpp"

#include <chrono>
#include <memory>
#include <string_view>
#include <utility>

namespace weir::cli {

void declare_image_options(option_set& options, std::string_view tls_creds_help) {
  options
      .value("format,f", "FMT",
             "Format of the image: raw, qcow2, qed or qcow (version 1, read-only). Without it the named "
             "image is probed.")
      .flag("force-share,U", "Open the image although another process writes it; what is read may be stale.")
      .flag("allow-remote-backing", "Open network locations that are named in image headers.")
      .value("tls-creds", "DIR", tls_creds_help)
      .value("reconnect-limit", "SECONDS",
             "Wait this long for an NBD or web server that is gone before requests fail (default 60).")
      .value(
          "passphrase-file", "PATH",
          "Passphrase of images encrypted with AES (qcow and qcow2, read-only): a file, or fd:N for an open "
          "descriptor. One newline at its end does not count. A wrong passphrase cannot be told from a right "
          "one: the content is then rubbish.");
}

void declare_snapshot_option(option_set& options) {
  options.value("snapshot,l", "NAME|ID", "Read the image as it was in this internal snapshot.");
}

outcome<const format_driver*> find_format(const std::string& name) {
  const format_driver* driver = formats().find(name);
  if (driver != nullptr) return driver;
  std::string known;
  for (const format_driver& each : formats().drivers()) known += " " + std::string(each.name);
  return usage_failure("unknown format '" + name + "' (known:" + known + ")");
}

outcome<image_settings> read_image_options(const given_options& given) {
  image_settings settings;
  settings.format = given.value("format").value_or("");
  if (!settings.format.empty()) {
    if (auto known = find_format(settings.format); known.has_error()) return known.error();
  }
  settings.allow_remote_backing = given.has("allow-remote-backing");
  settings.storage.tls_directory = given.value("tls-creds").value_or("");
  const auto limit = given.number("reconnect-limit");
  if (limit.has_error()) return limit.error();
  if (*limit) {
    settings.storage.nbd.reconnect_limit = std::chrono::seconds(**limit);
    settings.storage.http.reconnect_limit = std::chrono::seconds(**limit);
  }
  settings.snapshot = given.value("snapshot").value_or("");
  if (const auto file = given.value("passphrase-file")) {
    auto passphrase = read_passphrase(*file);
    if (passphrase.has_error()) return passphrase.error();
    settings.passphrase = std::make_shared<const std::string>(*std::move(passphrase));
  }
  if (given.has("force-share")) settings.storage.locking = image_locking::share;
  return settings;
}

outcome<std::map<std::string, std::string>> parse_format_options(const std::vector<std::string>& given) {
  std::map<std::string, std::string> options;
  for (const std::string& list : given) {
    std::string_view rest = list;
    while (!rest.empty()) {
      const std::size_t comma = rest.find(',');
      const std::string_view pair = rest.substr(0, comma);
      rest = comma == std::string_view::npos ? std::string_view{} : rest.substr(comma + 1);
      const std::size_t equals = pair.find('=');
      if (equals == std::string_view::npos || equals == 0) {
        return usage_failure("options: '" + std::string(pair) + "' is not key=value");
      }
      options[std::string(pair.substr(0, equals))] = pair.substr(equals + 1);
    }
  }
  return options;
}

}  // namespace weir::cli
