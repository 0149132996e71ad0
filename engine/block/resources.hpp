// What all disks and jobs of one engine share.
#pragma once

#include "engine/base/buffer_pool.hpp"
#include "engine/base/error.hpp"
#include "engine/base/task.hpp"
#include "engine/base/worker_pool.hpp"

#include <functional>

namespace weir {

struct engine_resources {
  executor context;
  buffer_pool& buffers;  ///< payload of guest requests
  worker_pool& workers;
  /// Told of errors that only reach a guest as a number; may be null.
  const std::function<void(const failure&)>* report = nullptr;
};

}  // namespace weir
