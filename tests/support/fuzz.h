#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <exception>
#include <string>

namespace qlora::test {

/// Rounds of a fuzz test: `rounds` as written, times QLORA_FUZZ_FACTOR where the environment has
/// it. scripts/test.sh --full sets it. The test has "Fuzz" in its name, by which the stage finds
/// it.
inline int64_t fuzz_iterations(int64_t rounds) {
  const char* factor = std::getenv("QLORA_FUZZ_FACTOR");
  const int64_t times = factor == nullptr ? 1 : std::strtoll(factor, nullptr, 10);
  return rounds * (times > 0 ? times : 1);
}

/// What is said of a damaged file has to be one line.
inline void expect_one_line(const std::exception& error) {
  EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
}

}  // namespace qlora::test
