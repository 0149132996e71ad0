#include "formats/qed/open.hpp"

#include "formats/qed/header_store.hpp"
#include "formats/qed/qed_image.hpp"
#include "formats/qed/survey.hpp"

#include <boost/asio/this_coro.hpp>

#include <algorithm>
#include <array>
#include <span>
#include <utility>

namespace weir::qed {

task<outcome<header>> read_header(storage& file) {
  header_fields bytes{};
  const std::span head = std::span(bytes).first(std::min<std::uint64_t>(bytes.size(), file.size()));
  const result<void> got = co_await file.read(0, head);
  if (!got) co_return make_failure(got.error(), file.location());
  co_return parse_header(head, file.size(), file.location());
}

namespace {

task<outcome<std::optional<backing_reference>>> read_backing(storage& file, const header& of) {
  std::optional<backing_reference> backing;
  if (!of.has(feature::backing_file)) co_return backing;
  std::string name(static_cast<std::size_t>(of.backing_name.length), '\0');
  const result<void> got =
      co_await file.read(of.backing_name.offset, std::as_writable_bytes(std::span(name)));
  if (!got) co_return make_failure(got.error(), file.location());
  if (!is_recordable(name)) {
    co_return make_failure(errc::corrupt_image, file.location(),
                           "bad QED header: the backing file name contains a NUL byte");
  }
  backing = describe_backing(of, std::move(name));
  co_return backing;
}

/// Makes sure that nothing an earlier writer left behind can be made worse by writing.
task<outcome<void>> admit_writing(storage& file, const header& of, const table_survey& survey) {
  if (!file.capabilities().writable) co_return make_failure(errc::read_only, file.location());
  if (survey.complaint) co_return make_failure(errc::corrupt_image, file.location(), *survey.complaint);
  if (!of.has(feature::need_check)) co_return outcome<void>{};
  co_return co_await check_clusters(file, of, survey);
}

/// The header after admit_writing: nothing to check and no unknown autoclear feature.
task<result<header>> clean_header(storage& file, const header& of) {
  header_store store(co_await boost::asio::this_coro::executor, file, of, std::nullopt);
  if (of.has(feature::need_check)) {
    // After a crash of the process alone, what was checked may not be on stable storage yet.
    const result<void> flushed = co_await file.flush();
    if (!flushed) co_return flushed.error();
  }
  const result<void> cleaned = co_await store.mark_clean();
  if (!cleaned) co_return cleaned.error();
  co_return store.current();
}

task<outcome<opened_parts>> open_parts(storage& file, image_open_options options) {
  const outcome<header> fields = co_await read_header(file);
  if (!fields) co_return fields.error();
  outcome<std::optional<backing_reference>> backing = co_await read_backing(file, *fields);
  if (!backing) co_return backing.error();
  result<table_survey> survey = co_await survey_tables(file, *fields);
  if (!survey) co_return make_failure(survey.error(), file.location());
  opened_parts parts{nullptr, *fields, std::move(*backing), survey->space, options};
  if (!options.writable) co_return parts;
  const outcome<void> admitted = co_await admit_writing(file, *fields, *survey);
  if (!admitted) co_return admitted.error();
  const result<header> cleaned = co_await clean_header(file, *fields);
  if (!cleaned) co_return make_failure(cleaned.error(), file.location());
  parts.fields = *cleaned;
  co_return parts;
}

}  // namespace

task<outcome<std::unique_ptr<image>>> open_image(std::unique_ptr<storage> from, image_open_options options) {
  outcome<opened_parts> parts = co_await open_parts(*from, options);
  if (!parts) {
    const result<void> ignored = co_await from->close();
    static_cast<void>(ignored);
    co_return parts.error();
  }
  parts->file = std::move(from);
  const executor context = co_await boost::asio::this_coro::executor;
  std::unique_ptr<image> opened = std::make_unique<qed_image>(context, std::move(*parts));
  co_return opened;
}

}  // namespace weir::qed
