// What can go wrong with the helper that reads legacy images, as error codes. Guests and NBD clients see EIO.
#pragma once

#include "engine/base/error.hpp"

namespace weir::qcow1 {

enum class reader_errc {
  cannot_start = 1,  ///< the helper is not installed, or the system has no process left
  refused,           ///< libqcow does not open this image
  unreadable,        ///< libqcow cannot read this cluster
  took_too_long,     ///< ended for using its processor time up
  died,              ///< crashed, was killed, or said what makes no sense
};

error_code make_error_code(reader_errc value) noexcept;

}  // namespace weir::qcow1

template <>
struct boost::system::is_error_code_enum<weir::qcow1::reader_errc> : std::true_type {};
