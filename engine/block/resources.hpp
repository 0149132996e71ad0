// What all disks and jobs of one engine share.
#pragma once

#include "engine/base/buffer_pool.hpp"
#include "engine/base/task.hpp"
#include "engine/base/worker_pool.hpp"

namespace weir {

struct engine_resources {
  executor context;
  buffer_pool& buffers;  ///< guest requests and copies
  worker_pool& workers;
};

}  // namespace weir
