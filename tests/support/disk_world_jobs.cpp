// Jobs beside the requests of a disk_world.
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
  run_job(std::make_unique<mirror_job>(*disk_, std::move(target), settings, options));
}

void disk_world::tell_job_to_end() {
  if (!job_ || job_->type() != job_type::mirror || draw(3) != 0) return;
  if (job_->status() == job_status::ready && !keeps_copy_) pivots_ = job_->complete().has_value();
}

void disk_world::finish_job() {
  if (!job_) return;
  const auto ready_or_over = [this] { return job_ended_ || job_->status() == job_status::ready; };
  const bool is_mirror = job_->type() == job_type::mirror;
  if (is_mirror && !pivots_) {
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
    default:
      return run_requests();
  }
}

/// The job has ended: what it made of the media.
void disk_world::take_result() {
  const failure error = job_->error();
  const bool failed = !error.what.empty();
  const bool was_mirror = job_->type() == job_type::mirror;
  const bool was_cancelled = was_mirror && !pivots_ && !keeps_copy_;
  EXPECT_TRUE(!failed || was_cancelled || may_fail()) << error.what;
  job_.reset();
  if (!was_mirror) return;
  if (keeps_copy_ && !failed && disk_) compare_copy();
  // The newest medium is opened as the active layer.
  const bool pivoted = disk_->chain().active().model.source.path == layer_name(media_.size() - 1);
  EXPECT_EQ(pivoted, pivots_ && !failed);
  if (!pivoted) media_.pop_back();
}

void disk_world::compare_copy() {
  inject_errors(false);
  std::vector<std::byte> own(disk_->size());
  std::vector<std::byte> copied(disk_->size());
  ASSERT_TRUE(run(disk_->read(0, own)));
  const std::unique_ptr<disk> copy = open_newest({.name = "copy"});
  ASSERT_TRUE(run(copy->read(0, copied)));
  EXPECT_TRUE(own == copied) << "the copy differs from the disk";
  ASSERT_TRUE(run(copy->close()));
  inject_errors(true);
}

}  // namespace weir::test
