// Errors are values. The data path carries an error code; where a human is told (opening an image, a job, a
// command), a `failure` adds once what was attempted, on what, and why.
#pragma once

#include <boost/system/error_code.hpp>
#include <boost/system/result.hpp>

#include <string>
#include <string_view>
#include <utility>

namespace weir {

using error_code = boost::system::error_code;

/// Result of a data-path operation.
template <class T>
using result = boost::system::result<T, error_code>;

/// weir's own error conditions, beside the system's errno values.
enum class errc {
  corrupt_image = 1,    ///< image metadata contradicts itself or its file
  corrupt_data,         ///< an encoded (compressed) unit does not decode to its length
  unsupported_feature,  ///< valid, but not something this build reads or writes
  not_this_format,      ///< the bytes are not an image of the named format
  not_supported,        ///< the object has no such operation: fall back
  read_only,            ///< a write to something opened for reading
  out_of_range,         ///< a range outside the disk, image or storage
  cancelled,            ///< asked to stop
  image_in_use,         ///< another process holds a lock on the image
  stale_layer,          ///< the chain changed while the operation was suspended
  closed,               ///< used after close()
  name_too_long,        ///< the image's header has no room for the name of its backing image
};

const boost::system::error_category& weir_category() noexcept;

inline error_code make_error_code(errc value) noexcept {
  return {static_cast<int>(value), weir_category()};
}

/// Error code for an errno value (positive).
inline error_code errno_code(int value) noexcept {
  return {value, boost::system::system_category()};
}

/// An error for people: `what` is a full clause naming the object ("/p/top.qcow2: L1 table at 0x30000 ends
/// past the end of the file"), `code` its machine-readable kind.
struct failure {
  error_code code;
  std::string what;
};

/// Result of an operation that reports to people.
template <class T>
using outcome = boost::system::result<T, failure>;

/// "SUBJECT: MESSAGE of code", e.g. "/p/a.raw: No such file or directory".
failure make_failure(error_code code, std::string_view subject);
/// "SUBJECT: EXPLANATION".
failure make_failure(error_code code, std::string_view subject, std::string_view explanation);

/// Required by boost::system::result<T, failure>::value(); reached only through a broken invariant.
[[noreturn]] void throw_exception_from_error(const failure& error, const boost::source_location& where);

}  // namespace weir

template <>
struct boost::system::is_error_code_enum<weir::errc> : std::true_type {};
