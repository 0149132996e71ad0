#include "engine/jobs/commit.hpp"

#include "engine/copy/resize_disk.hpp"
#include "engine/jobs/recorded_name.hpp"

#include <algorithm>
#include <iterator>
#include <utility>

namespace weir {
namespace {

using layer_list = std::vector<std::shared_ptr<layer>>;

layer_list from_depth(const layer_list& layers, std::size_t depth) {
  return {layers.begin() + static_cast<std::ptrdiff_t>(depth), layers.end()};
}

bool contains(const layer_list& layers, const std::shared_ptr<layer>& wanted) {
  return std::ranges::find(layers, wanted) != layers.end();
}

/// A disk over layers that another disk has, too; it is never closed, only dropped.
std::unique_ptr<disk> disk_over(disk& owner, layer_list layers, std::string name, bool read_only) {
  disk_settings settings;
  settings.name = std::move(name);
  settings.read_only = read_only;
  return std::make_unique<disk>(owner.resources(), std::make_unique<chain>(std::move(layers)),
                                std::move(settings));
}

/// What one commit knows, shared by the steps that the job calls back.
class commit_session {
 public:
  commit_session(disk& target, commit_options options)
      : disk_(target),
        options_(std::move(options)),
        top_(target.chain().at(options_.top_depth)),
        base_(target.chain().at(options_.base_depth)) {}

  bool is_active() const noexcept { return options_.top_depth == 0; }
  std::size_t layers_to_copy() const noexcept { return options_.base_depth - options_.top_depth; }

  /// The base open for writing and long enough. On failure the chain is as it was.
  task<outcome<void>> begin() {
    co_await disk_.drain();
    outcome<void> done = co_await reopen(base_, true);
    if (done) done = co_await fit_base();
    if (!done && base_->image->writable() && is_locked(*base_)) {
      static_cast<void>(co_await reopen(base_, false));
    }
    disk_.resume();
    co_return done;
  }

  std::unique_ptr<disk> base_disk() const {
    return disk_over(disk_, from_depth(disk_.chain().layers(), depth_of(base_)),
                     describe(base_->model.source), false);
  }
  std::unique_ptr<disk> disk_from_top() const {
    return disk_over(disk_, from_depth(disk_.chain().layers(), depth_of(top_)), disk_.name(), true);
  }

  /// Intermediate: the layer above the top stands on the base from now on. The base is durable.
  task<outcome<void>> link_past() {
    co_await disk_.drain();
    std::shared_ptr<layer> above = disk_.chain().at(depth_of(top_) - 1);
    const bool opens = !above->image->writable();
    outcome<void> done;
    if (opens) done = co_await reopen(above, true);
    if (done) done = co_await record_base(*above);
    if (done) drop_between(above);
    if (opens && above->image->writable() && is_locked(*above)) {
      const outcome<void> closed = co_await reopen(above, false);
      if (done) done = closed;
    }
    disk_.resume();
    if (!done) co_return done;
    for (const std::shared_ptr<layer>& each : dropped_) {
      // Read-only: nothing can be lost by an error here.
      static_cast<void>(co_await each->image->close());
    }
    if (options_.chain_changed) done = options_.chain_changed(disk_);
    if (!done) co_return done;
    for (const std::shared_ptr<layer>& each : dropped_) tell_dropped(each->model);
    co_return done;
  }

  /// The last step, however the job ended.
  task<void> clean_up() {
    const layer_list layers = disk_.chain().layers();
    const bool below = contains(layers, base_) && layers.front() != base_;
    if (below && base_->image->writable() && is_locked(*base_)) {
      co_await disk_.drain();
      static_cast<void>(co_await reopen(base_, false));
      disk_.resume();
    }
  }

  void tell_dropped(const layer_model& model) const {
    if (options_.dropped) options_.dropped(model);
  }

 private:
  std::size_t depth_of(const std::shared_ptr<layer>& wanted) const {
    const layer_list& layers = disk_.chain().layers();
    return static_cast<std::size_t>(std::ranges::find(layers, wanted) - layers.begin());
  }

  /// Open for writing, it keeps others from opening it: exports of servers may as well stay so.
  static bool is_locked(const layer& which) { return which.model.source.type != "network"; }

  void put_in_place(const std::shared_ptr<layer>& old, const std::shared_ptr<layer>& fresh) {
    layer_list layers = disk_.chain().layers();
    std::ranges::replace(layers, old, fresh);
    static_cast<void>(disk_.exchange_layers(std::move(layers)));
  }

  /// Opens a layer anew. Precondition: drained.
  task<outcome<void>> reopen(std::shared_ptr<layer>& which, bool writable) {
    const std::shared_ptr<layer> old = which;
    if (writable) {
      // Beside the old one, if nothing is locked: a server that has gone must not take the layer with it.
      const outcome<std::shared_ptr<layer>> second = co_await options_.open(old->model, true);
      if (second) {
        static_cast<void>(co_await old->image->close());
        (*second)->model = old->model;
        put_in_place(old, *second);
        which = *second;
        co_return outcome<void>{};
      }
    }
    const result<void> closed = co_await old->image->close();
    outcome<std::shared_ptr<layer>> fresh = co_await options_.open(old->model, writable);
    outcome<void> done;
    if (!closed && !writable) done = make_failure(closed.error(), describe(old->model.source));
    if (!fresh) done = fresh.error();
    // As it was, so that the guest goes on.
    if (!fresh && writable) fresh = co_await options_.open(old->model, false);
    if (!fresh) co_return fresh.error();
    (*fresh)->model = old->model;
    put_in_place(old, *fresh);
    which = *fresh;
    co_return done;
  }

  /// The base gets the top's length where it is shorter. What a longer one has behind that, a shorter top has hidden
  /// from the layers above so far. Precondition: drained.
  task<outcome<void>> fit_base() {
    const std::uint64_t wanted = top_->image->virtual_size();
    const std::uint64_t has = base_->image->virtual_size();
    const std::unique_ptr<disk> base = base_disk();
    if (has < wanted) co_return co_await resize_disk(*base, wanted, preallocation::off);
    if (is_active() || has == wanted) co_return outcome<void>{};
    const zero_flags punch;
    const result<void> zeroed = co_await base->zero(range_between(wanted, has), punch);
    if (!zeroed) co_return make_failure(zeroed.error(), base->name());
    co_return outcome<void>{};
  }

  task<outcome<void>> record_base(layer& above) {
    const std::string name = options_.backing_name.value_or(name_to_record(base_->model.source));
    const result<void> recorded = co_await above.image->set_backing(
        backing_reference{name, std::string(base_->image->format()), false});
    if (!recorded) {
      co_return make_failure(recorded.error(),
                             "rewriting the backing link of " + describe(above.model.source));
    }
    if (options_.backing_name) base_->model.recorded_name = name;
    co_return outcome<void>{};
  }

  /// Precondition: drained.
  void drop_between(const std::shared_ptr<layer>& above) {
    const layer_list old = disk_.chain().layers();
    layer_list kept(old.begin(), old.begin() + static_cast<std::ptrdiff_t>(depth_of(above)) + 1);
    std::ranges::copy(from_depth(old, depth_of(base_)), std::back_inserter(kept));
    dropped_.assign(old.begin() + static_cast<std::ptrdiff_t>(depth_of(above)) + 1,
                    old.begin() + static_cast<std::ptrdiff_t>(depth_of(base_)));
    static_cast<void>(disk_.exchange_layers(std::move(kept)));
  }

  disk& disk_;
  commit_options options_;
  std::shared_ptr<layer> top_;
  std::shared_ptr<layer> base_;
  layer_list dropped_;
};

mirror_options options_for(const std::shared_ptr<commit_session>& session, const commit_options& asked) {
  mirror_options options;
  options.sync = mirror_sync::top;
  options.base_depth = session->layers_to_copy();
  commit_hooks hooks;
  hooks.clean_up = [session] { return session->clean_up(); };
  hooks.dropped = [session](const layer_model& model) { session->tell_dropped(model); };
  if (session->is_active()) {
    options.chain_changed = asked.chain_changed;
  } else {
    hooks.source = session->disk_from_top();
    hooks.finish = [session] { return session->link_past(); };
  }
  options.commit = std::move(hooks);
  return options;
}

}  // namespace

task<outcome<std::unique_ptr<job>>> make_commit_job(disk& target, job_settings settings,
                                                    commit_options options) {
  const auto session = std::make_shared<commit_session>(target, options);
  if (auto begun = co_await session->begin(); begun.has_error()) co_return begun.error();
  mirror_options how = options_for(session, options);
  disk& source = how.commit->source ? *how.commit->source : target;
  co_return std::make_unique<mirror_job>(source, session->base_disk(), std::move(settings), std::move(how));
}

}  // namespace weir
