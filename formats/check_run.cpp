#include "formats/check_run.hpp"

#include <string_view>
#include <utility>

namespace weir {
namespace {

task<outcome<check_report>> look_again(storage& file, check_report before, finding_sink sink,
                                       format_check format) {
  bool said = false;
  const finding_sink retold = [&](std::string_view line) {
    if (!sink) return;
    if (!std::exchange(said, true)) sink("after the repair this is left:");
    sink(line);
  };
  outcome<check_report> after = co_await format.look(file, repair_mode::none, retold);
  if (!after) co_return after;
  const auto difference = [](std::uint64_t was, std::uint64_t is) { return was > is ? was - is : 0; };
  after->corruptions_fixed = difference(before.corruptions, after->corruptions);
  after->leaks_fixed = difference(before.leaks, after->leaks);
  co_return after;
}

task<outcome<check_report>> check_and_repair(storage& file, check_options options, format_check format) {
  const bool repairs = options.repair != repair_mode::none;
  if (repairs && !file.capabilities().writable) co_return make_failure(errc::read_only, file.location());
  outcome<check_report> report = co_await format.look(file, options.repair, options.on_finding);
  if (!report || !repairs || report->check_errors > 0) co_return report;
  if (!report->is_clean()) report = co_await look_again(file, *report, options.on_finding, format);
  if (!report || report->corruptions > 0 || report->check_errors > 0) co_return report;
  const outcome<void> cleared = co_await format.clear_marks(file);
  if (!cleared) co_return cleared.error();
  co_return report;
}

}  // namespace

task<outcome<check_report>> run_check(std::unique_ptr<storage> from, check_options options,
                                      format_check format) {
  outcome<check_report> report = co_await check_and_repair(*from, std::move(options), format);
  const result<void> closed = co_await from->close();
  if (report && !closed) co_return make_failure(closed.error(), from->location());
  co_return report;
}

}  // namespace weir
