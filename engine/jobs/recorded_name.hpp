// The name that an overlay records for its backing image when none is given.
#pragma once

#include "engine/block/model.hpp"

#include <string>

namespace weir {

/// Local paths are made absolute, since relative ones would be taken from the overlay's directory.
std::string name_to_record(const layer_source& source);

}  // namespace weir
