#pragma once

#include <gtest/gtest.h>

#include <string>

namespace qlora::testing {

/// Message of the error of kind E that `call` throws.
template <class E, class Call>
std::string message_of(const Call& call) {
  try {
    call();
  } catch (const E& error) {
    return error.what();
  }
  ADD_FAILURE() << "no error of the expected kind";
  return {};
}

}  // namespace qlora::testing

#define EXPECT_SAYS(text, part) EXPECT_NE((text).find(part), std::string::npos) << (text)
