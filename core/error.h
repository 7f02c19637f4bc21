#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace qlora {

/// Base of everything that the program throws on purpose.
///   Message   `[where] what, actual value, allowed, what to do`, one line
///   Caught    by cli alone, which prints the line and returns 2
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class ConfigError : public Error {  // a key, a type or a combination in the configuration
  using Error::Error;
};
class ShapeError : public Error {  // sizes that do not fit each other
  using Error::Error;
};
class ValueError : public Error {  // a number, a token or a text out of its range
  using Error::Error;
};
class FormatError : public Error {  // a file that is not what it claims to be
  using Error::Error;
};
class IoError : public Error {  // the operating system said no
  using Error::Error;
};
class DeviceError : public Error {  // a device that is missing, or that failed
  using Error::Error;
};

/// Throws Kind with a formatted message where a public boundary's condition does not hold.
/// Internal invariants use assert: a user must never be able to trigger one.
#define QLORA_CHECK(condition, Kind, ...)              \
  do {                                                 \
    if (!(condition)) [[unlikely]]                     \
      throw ::qlora::Kind(::fmt::format(__VA_ARGS__)); \
  } while (false)

}  // namespace qlora
