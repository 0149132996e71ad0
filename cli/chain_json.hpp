// The chain model as JSON: the shape that `weir chain --json` promises (`weir help chain`).
#pragma once

#include "engine/block/backing_name.hpp"
#include "engine/block/model.hpp"

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace weir::cli {

/// {"index","format","type","location", …}. "index" is the one its description gave the layer, else `depth`. "spec" is
/// what names the layer in commands ("vda[2]"), where the disk has a name and the layer a number.
boost::json::object to_json(const layer_model& layer, std::size_t depth, std::string_view disk_name = {});
boost::json::object to_json(const mirror_model& mirror);
/// {"target","device","readonly","terminated","layers","mirror"}.
boost::json::object to_json(const disk_model& disk);
/// {"disks":[…]}.
boost::json::object to_json(const std::vector<disk_model>& disks);
/// The layer object of `chain --backing-string`, with "rc".
boost::json::object to_json(const parsed_backing& parsed);

struct found_layer {
  std::size_t disk = 0;   ///< position in the list
  std::size_t depth = 0;  ///< 0 = active
};

/// What `chain --lookup SPEC` names among `disks`: "vda", "vda[2]" or a location. A location that several
/// disks use names the first. `disks` should be numbered (number_layers).
std::optional<found_layer> look_up_layer(const std::vector<disk_model>& disks, std::string_view spec);

}  // namespace weir::cli
