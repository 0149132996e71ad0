#include "engine/jobs/job_state.hpp"

#include <array>
#include <cassert>
#include <utility>

namespace weir {
namespace {

constexpr std::size_t status_count = 10;

using status_set = std::array<bool, status_count>;

constexpr status_set set_of(std::initializer_list<job_status> members) {
  status_set set{};
  for (const job_status each : members) set[static_cast<std::size_t>(each)] = true;
  return set;
}

using enum job_status;

/// In which states QEMU's JobVerbTable accepts a verb.
constexpr status_set states_accepting(job_verb verb) {
  switch (verb) {
    case job_verb::cancel:
      return set_of({created, running, paused, ready, standby, waiting, pending});
    case job_verb::pause:
    case job_verb::resume:
    case job_verb::set_speed:
      return set_of({created, running, paused, ready, standby});
    case job_verb::complete:
      return set_of({ready});
    case job_verb::finalize:
      return set_of({pending});
    case job_verb::dismiss:
      return set_of({concluded});
  }
  return {};
}

/// Where QEMU's JobSTT lets a job go from a state.
constexpr status_set successors(job_status status) {
  switch (status) {
    case created:
      return set_of({running, aborting, null});
    case running:
      return set_of({paused, ready, waiting, aborting});
    case paused:
      return set_of({running});
    case ready:
      return set_of({standby, waiting, aborting});
    case standby:
      return set_of({ready});
    case waiting:
      return set_of({pending, aborting});
    case pending:
    case aborting:
      return set_of({aborting, concluded});
    case concluded:
      return set_of({null});
    case null:
      break;
  }
  return {};
}

}  // namespace

std::string_view name_of(job_status status) noexcept {
  switch (status) {
    case created:
      return "created";
    case running:
      return "running";
    case paused:
      return "paused";
    case ready:
      return "ready";
    case standby:
      return "standby";
    case waiting:
      return "waiting";
    case pending:
      return "pending";
    case aborting:
      return "aborting";
    case concluded:
      return "concluded";
    case null:
      return "null";
  }
  std::unreachable();
}

std::string_view name_of(job_verb verb) noexcept {
  switch (verb) {
    case job_verb::cancel:
      return "cancel";
    case job_verb::pause:
      return "pause";
    case job_verb::resume:
      return "resume";
    case job_verb::set_speed:
      return "set-speed";
    case job_verb::complete:
      return "complete";
    case job_verb::finalize:
      return "finalize";
    case job_verb::dismiss:
      return "dismiss";
  }
  std::unreachable();
}

bool accepts(job_status status, job_verb verb) noexcept {
  return states_accepting(verb)[static_cast<std::size_t>(status)];
}

bool may_follow(job_status from, job_status to) noexcept {
  return successors(from)[static_cast<std::size_t>(to)];
}

void job_state::move_to(job_status next) noexcept {
  assert(may_follow(status_, next));
  status_ = next;
}

}  // namespace weir
