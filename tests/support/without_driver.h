#pragma once

#include <dlfcn.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "tests/support/errors.h"

namespace qlora::testing {

inline bool has_driver() {
  return dlopen("libcuda.so.1", RTLD_LAZY) != nullptr;
}

/// `call` has to say why there is no CUDA on a machine without a driver, and what to do.
template <class Call>
void expect_no_driver(const Call& call) {
  const std::string text = message_of<DeviceError>(call);
  EXPECT_SAYS(text, "NVIDIA driver");
  EXPECT_SAYS(text, "device cpu");
}

}  // namespace qlora::testing
