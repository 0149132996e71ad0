// Jobs beside the requests of a disk_world.
#include "engine/jobs/backup_job.hpp"
#include "engine/jobs/commit.hpp"
#include "engine/jobs/mirror_job.hpp"
#include "engine/jobs/stream_job.hpp"
#include "tests/support/disk_world.hpp"

#include <gtest/gtest.h>

#include <array>
#include <utility>

namespace weir::test {

void disk_world::run_job(std::unique_ptr<job> created) {
  job_ = std::move(created);
  job_ended_ = false;
  pivots_ = false;
  keeps_copy_ = false;
  was_given_up_ = false;
  start_task(io_.get_executor(), job_->run(), [this](std::exception_ptr thrown) {
    job_ended_ = true;
    if (thrown) std::rethrow_exception(thrown);
  });
}

void disk_world::start_streaming() {
  if (job_ || disk_->chain().depth() == 1) return;
  job_settings settings;
  settings.id = "stream";
  if (settings_.errors_per_million > 0 && draw(2) == 0) settings.error_policy = on_error::ignore;
  stream_options options;
  options.base_depth = 1 + draw(disk_->chain().depth());
  if (options.base_depth < disk_->chain().depth()) {
    options.backing_name = disk_->chain().at(options.base_depth)->model.source.path;
  }
  run_job(std::make_unique<stream_job>(*disk_, settings, options));
}

void disk_world::start_mirroring() {
  if (job_) return;
  inject_errors(false);
  static constexpr std::array<copy_mode, 3> modes{copy_mode::background, copy_mode::write_blocking,
                                                  copy_mode::automatic};
  mirror_options options;
  options.mode = modes[draw(3)];
  options.granularity_bytes = sector << draw(4);
  options.buffer_bytes = MiB << draw(3);
  const std::size_t depth = disk_->chain().depth();
  if (depth > 1 && draw(2) == 0) options.sync = mirror_sync::top;
  options.base_depth = options.sync == mirror_sync::top ? 1 + draw(depth - 1) : depth;
  const std::string below =
      options.base_depth < depth ? disk_->chain().at(options.base_depth)->model.source.path : std::string();
  add_image(disk_->size(), below);
  options.target_is_zero = below.empty();
  auto target = open_newest({.name = "target"});
  inject_errors(true);
  job_settings settings;
  settings.id = "mirror";
  run_job(std::make_unique<mirror_job>(*disk_, std::move(target), settings, std::move(options)));
}

task<outcome<std::shared_ptr<layer>>> disk_world::open_anew(std::string name, bool writable) {
  apply_errors(false);
  auto opened = co_await open_one(index_of(name), writable);
  while (!opened && power_.on()) {
    // The link was cut meanwhile.
    link_.heal();
    opened = co_await open_one(index_of(name), writable);
  }
  apply_errors(injects_errors_);
  if (!opened) co_return failure{errc::closed, "the power is off"};
  co_return opened;
}

void disk_world::start_committing() {
  const std::size_t depth = disk_->chain().depth();
  if (job_ || depth == 1) return;
  commit_options options;
  options.top_depth = draw(depth - 1);
  options.base_depth = options.top_depth + 1 + draw(depth - 1 - options.top_depth);
  const layer& base = *disk_->chain().at(options.base_depth);
  // The guest's disk would become longer.
  if (options.top_depth == 0 && base.image->virtual_size() > disk_->size()) return;
  if (options.top_depth > 0) options.backing_name = base.model.source.path;
  options.open = [this](const layer_model& model, bool writable) {
    return open_anew(model.source.path, writable);
  };
  commit_base_ = options.top_depth == 0 ? std::optional(index_of(base.model.source.path)) : std::nullopt;
  job_settings settings;
  settings.id = "commit";
  auto made = run(make_commit_job(*disk_, settings, std::move(options)));
  EXPECT_TRUE(made.has_value() || may_fail()) << made.error().what;
  if (made) run_job(std::move(*made));
}

void disk_world::start_backup() {
  if (job_) return;
  inject_errors(false);
  backup_content_.resize(disk_->size());
  ASSERT_TRUE(run(disk_->read(0, backup_content_)));
  backup_options options;
  const bool shallow = disk_->chain().depth() > 1 && draw(3) == 0;
  if (shallow) options.sync = backup_sync::top;
  add_image(disk_->size(), shallow ? disk_->chain().at(1)->model.source.path : std::string());
  options.target_is_zero = !shallow;
  auto target = open_newest({.name = "target"});
  options.encode = target->encoding().has_value() && draw(2) == 0;
  inject_errors(true);
  job_settings settings;
  settings.id = "backup";
  auto created = std::make_unique<backup_job>(*disk_, std::move(target), settings, std::move(options));
  ASSERT_TRUE(run(created->prepare()));
  created->begin();
  run_job(std::move(created));
}

bool disk_world::has_two_phases() const {
  return job_->type() == job_type::mirror || (job_->type() == job_type::commit && commit_base_);
}

void disk_world::tell_job_to_end() {
  if (!job_ || !has_two_phases() || draw(3) != 0) return;
  if (job_->status() == job_status::ready && !keeps_copy_) pivots_ = job_->complete().has_value();
}

void disk_world::finish_job() {
  if (!job_) return;
  const auto ready_or_over = [this] { return job_ended_ || job_->status() == job_status::ready; };
  if (has_two_phases() && !pivots_) {
    const bool gives_up = draw(4) == 0;
    if (!gives_up) run_simulation_until(io_, clock_, ready_or_over);
    if (gives_up) {
      static_cast<void>(job_->cancel());
    } else if (draw(2) == 0) {
      pivots_ = job_->complete().has_value();
    } else {
      keeps_copy_ = job_->finish().has_value();
    }
  }
  const bool gives_up_backup = job_->type() == job_type::backup && draw(4) == 0;
  was_given_up_ = gives_up_backup && job_->cancel().has_value();
  run_simulation_until(io_, clock_, [this] { return job_ended_; });
  take_result();
}

void disk_world::live_a_step(std::uint64_t kinds) {
  switch (draw(kinds)) {
    case 0:
      return start_streaming();
    case 1:
      return start_mirroring();
    case 2:
      return toggle_copy_on_read();
    case 3:
      close();
      return open();
    case 4:
      return check_content();
    case 5:
      return start_committing();
    case 6:
      return start_backup();
    default:
      return run_requests();
  }
}

/// The job has ended: what it made of the media.
void disk_world::take_result() {
  const failure error = job_->error();
  const bool failed = !error.what.empty();
  const bool two_phases = has_two_phases();
  const bool was_cancelled = was_given_up_ || (two_phases && !pivots_ && !keeps_copy_);
  EXPECT_TRUE(!failed || was_cancelled || may_fail()) << error.what;
  const std::size_t copy = job_->type() == job_type::commit && two_phases ? *commit_base_ : media_.size() - 1;
  const bool is_new = job_->type() == job_type::mirror;
  const bool was_backup = job_->type() == job_type::backup;
  job_.reset();
  if (was_backup) {
    if (!failed && power_.on()) compare_copy(copy, backup_content_);
    media_.pop_back();
  }
  if (!two_phases) return;
  if (keeps_copy_ && !failed && disk_ && power_.on()) compare_copy(copy, disk_content());
  // The newest medium is opened as the active layer.
  const bool pivoted = disk_->chain().active().model.source.path == layer_name(copy);
  EXPECT_EQ(pivoted, pivots_ && !failed);
  if (pivoted) media_.resize(copy + 1);
  if (!pivoted && is_new) media_.pop_back();
}

std::vector<std::byte> disk_world::disk_content() {
  inject_errors(false);
  std::vector<std::byte> content(disk_->size());
  EXPECT_TRUE(run(disk_->read(0, content)));
  inject_errors(true);
  return content;
}

void disk_world::compare_copy(std::size_t newest, const std::vector<std::byte>& wanted) {
  inject_errors(false);
  std::vector<std::byte> copied(wanted.size());
  const std::unique_ptr<disk> copy = open_from(newest, {.name = "copy", .read_only = true});
  ASSERT_TRUE(run(copy->read(0, copied)));
  EXPECT_TRUE(wanted == copied) << "the copy differs from the disk";
  ASSERT_TRUE(run(copy->close()));
  inject_errors(true);
}

}  // namespace weir::test
