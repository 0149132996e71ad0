// What a QMP command answers: a value or an error of QEMU's classes (qapi/error.json).
#pragma once

#include "engine/base/error.hpp"

#include <boost/json/value.hpp>
#include <boost/system/result.hpp>

#include <string>
#include <string_view>
#include <utility>

namespace weir {

struct qmp_error {
  qmp_error() = default;
  qmp_error(std::string_view class_name, std::string text)
      : error_class(class_name), description(std::move(text)) {}

  std::string_view
      error_class;  ///< GenericError, CommandNotFound, DeviceNotActive, DeviceNotFound; a literal
  std::string description;
};

/// Required by boost::system::result<T, qmp_error>::value(); reached only through a broken invariant.
[[noreturn]] void throw_exception_from_error(const qmp_error& error, const boost::source_location& where);

template <class T>
using qmp_result = boost::system::result<T, qmp_error>;
using qmp_reply = qmp_result<boost::json::value>;

qmp_error generic_error(std::string description);
qmp_error generic_error(const failure& error);

}  // namespace weir
