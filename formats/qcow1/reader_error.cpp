#include "formats/qcow1/reader_error.hpp"

namespace weir::qcow1 {
namespace {

class category final : public boost::system::error_category {
 public:
  const char* name() const noexcept override { return "weir-qcow-reader"; }

  std::string message(int value) const override {
    switch (static_cast<reader_errc>(value)) {
      case reader_errc::cannot_start:
        return "the helper weir-qcow-reader, which reads this format, cannot be started";
      case reader_errc::refused:
        return "libqcow, which reads this format, refuses the image";
      case reader_errc::unreadable:
        return "Input/output error: libqcow cannot read the cluster";
      case reader_errc::took_too_long:
        return "Input/output error: the helper weir-qcow-reader used all its processor time on the cluster";
      case reader_errc::died:
        return "Input/output error: the helper weir-qcow-reader ended unexpectedly";
    }
    return "unknown error of weir-qcow-reader";
  }

  boost::system::error_condition default_error_condition(int) const noexcept override {
    return boost::system::errc::make_error_condition(boost::system::errc::io_error);
  }
};

}  // namespace

error_code make_error_code(reader_errc value) noexcept {
  static const category instance;
  return {static_cast<int>(value), instance};
}

}  // namespace weir::qcow1
