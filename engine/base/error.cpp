#include "engine/base/error.hpp"

#include <stdexcept>

namespace weir {
namespace {

class category final : public boost::system::error_category {
 public:
  const char* name() const noexcept override { return "weir"; }

  std::string message(int value) const override {
    switch (static_cast<errc>(value)) {
      case errc::corrupt_image:
        return "image metadata is corrupt";
      case errc::corrupt_data:
        return "compressed data is corrupt";
      case errc::unsupported_feature:
        return "unsupported feature";
      case errc::not_this_format:
        return "not an image of this format";
      case errc::not_supported:
        return "operation not supported";
      case errc::read_only:
        return "opened read-only";
      case errc::out_of_range:
        return "range is out of bounds";
      case errc::cancelled:
        return "cancelled";
      case errc::image_in_use:
        return "image is in use by another process";
      case errc::stale_layer:
        return "the backing chain changed";
      case errc::closed:
        return "already closed";
      case errc::name_too_long:
        return "the name does not fit in the image's header";
    }
    return "unknown error";
  }
};

}  // namespace

const boost::system::error_category& weir_category() noexcept {
  static const category instance;
  return instance;
}

failure make_failure(error_code code, std::string_view subject) {
  return make_failure(code, subject, code.message());
}

failure make_failure(error_code code, std::string_view subject, std::string_view explanation) {
  std::string what(subject);
  what.append(": ").append(explanation);
  return failure{code, std::move(what)};
}

void throw_exception_from_error(const failure& error, const boost::source_location&) {
  throw std::logic_error("unchecked failure: " + error.what);
}

}  // namespace weir
