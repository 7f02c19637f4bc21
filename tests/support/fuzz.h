#pragma once

#include <cstdint>
#include <cstdlib>

namespace qlora::test {

/// Rounds of a fuzz test: `rounds` as written, times QLORA_FUZZ_FACTOR where the environment has
/// it. scripts/test.sh --full sets it. The test has "Fuzz" in its name, by which the stage finds
/// it.
inline int64_t fuzz_iterations(int64_t rounds) {
  const char* factor = std::getenv("QLORA_FUZZ_FACTOR");
  const int64_t times = factor == nullptr ? 1 : std::strtoll(factor, nullptr, 10);
  return rounds * (times > 0 ? times : 1);
}

}  // namespace qlora::test
