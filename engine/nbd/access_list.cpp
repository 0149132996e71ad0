#include "engine/nbd/access_list.hpp"

#include <cerrno>

namespace weir::nbd {
namespace {

constexpr std::string_view every_export = "*";

}  // namespace

outcome<void> access_list::allow(std::string_view rule) {
  const std::size_t equals = rule.find('=');
  if (equals == 0 || equals == std::string_view::npos) {
    return make_failure(errno_code(EINVAL), "'" + std::string(rule) + "'", "not CLIENT=EXPORT");
  }
  exports_of_[std::string(rule.substr(0, equals))].emplace(rule.substr(equals + 1));
  return {};
}

bool access_list::permits(std::string_view client, std::string_view export_name) const {
  if (exports_of_.empty()) return true;
  const auto found = exports_of_.find(client);
  return found != exports_of_.end() &&
         (found->second.contains(every_export) || found->second.contains(export_name));
}

}  // namespace weir::nbd
