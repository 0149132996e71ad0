#include "engine/control/qmp_reply.hpp"

#include <stdexcept>
#include <utility>

namespace weir {

void throw_exception_from_error(const qmp_error& error, const boost::source_location&) {
  throw std::logic_error(error.description);
}

qmp_error generic_error(std::string description) {
  return {"GenericError", std::move(description)};
}

qmp_error generic_error(const failure& error) {
  return generic_error(error.what);
}

}  // namespace weir
