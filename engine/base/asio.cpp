// Boost.Asio's own functions, compiled once instead of into every file that uses them (BOOST_ASIO_SEPARATE_COMPILATION).
#include <boost/asio/impl/src.hpp>
