#pragma once

#include <hwy/targets.h>

#include <cstdint>
#include <vector>

namespace qlora::testing {

/// Highway targets that this project compiles for and this processor runs, best first: AVX-512
/// (AVX3), AVX2, and the plain code that is always there.
inline std::vector<int64_t> simd_targets() {
  std::vector<int64_t> targets;
  for (const int64_t target : {int64_t{HWY_AVX3}, int64_t{HWY_AVX2}}) {
    if ((hwy::SupportedTargets() & target) != 0) targets.push_back(target);
  }
  targets.push_back(HWY_STATIC_TARGET);
  return targets;
}

/// While it lives, dynamic dispatch takes this target.
class UseSimdTarget {
 public:
  explicit UseSimdTarget(int64_t target) { choose(target); }
  ~UseSimdTarget() { choose(0); }  // 0: what the processor has
  UseSimdTarget(const UseSimdTarget&) = delete;
  UseSimdTarget& operator=(const UseSimdTarget&) = delete;

 private:
  static void choose(int64_t target) {
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  }
};

}  // namespace qlora::testing
