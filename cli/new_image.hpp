// An image being made: written under a temporary name beside its place and moved there when it is complete, so
// that an interrupted command leaves nothing that looks finished, and an image that was there before stays until
// then.
#pragma once

#include "cli/engine_host.hpp"
#include "engine/block/format_table.hpp"

#include <memory>
#include <string>

namespace weir::cli {

/// The path of the plain file that an IMAGE to be made names. Errors: it is anything else.
outcome<std::string> path_to_make(const std::string& image);

class new_image {
 public:
  /// Creates an empty image of `format` under the temporary name. Failures name `path`. Errors: an image there
  /// that another process uses; anything there that is not a regular file.
  static task<outcome<std::unique_ptr<new_image>>> create(engine_host& host, std::string path,
                                                          const format_driver& format,
                                                          image_create_options options);
  /// Removes the temporary file, and a data file made for it, unless the image was put in place.
  ~new_image();
  new_image(const new_image&) = delete;
  new_image& operator=(const new_image&) = delete;

  const std::string& temporary_path() const noexcept { return temporary_; }
  /// The failure with the image's own name instead of the temporary one.
  failure as_user_sees(failure error) const;
  /// Puts the image in place, durably. Precondition: it is closed.
  outcome<void> put_in_place();

 private:
  new_image(std::string path, std::string temporary);
  void remove_files() const noexcept;
  task<outcome<std::unique_ptr<storage>>> create_data_file(engine_host& host, std::string name);

  std::string path_;
  std::string temporary_;
  std::string new_data_file_;  // goes with the image if that is not put in place
  bool in_place_ = false;
};

}  // namespace weir::cli
