#include <cmath>

#include "lora/merge_backend.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "lora/merge_cpu.cpp"
#include <hwy/foreach_target.h>
// The order matters: foreach_target.h first.
#include <hwy/highway.h>

#include "core/parallel.h"

HWY_BEFORE_NAMESPACE();
namespace qlora::lora::HWY_NAMESPACE {

/// std::fma becomes the fused instruction where the target has one, and a correct call elsewhere.
void merge(const MergeArgs& m, int64_t begin, int64_t end) {
  for (int64_t n = begin; n < end; ++n) {
    const float* b = m.b + n * m.rank;
    const float* w = m.weight + n * m.cols;
    float* out = m.out + n * m.cols;
    for (int64_t k = 0; k < m.cols; ++k) out[k] = 0;
    for (int64_t r = 0; r < m.rank; ++r) {
      const float* a = m.a + r * m.cols;
      const float factor = b[r];
      for (int64_t k = 0; k < m.cols; ++k) out[k] = std::fma(factor, a[k], out[k]);
    }
    for (int64_t k = 0; k < m.cols; ++k) out[k] = std::fma(m.scale, out[k], w[k]);
  }
}

}  // namespace qlora::lora::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace qlora::lora::cpu {
HWY_EXPORT(merge);

void merge(const MergeArgs& args) {
  parallel_for(args.rows, 8, [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(merge)(args, begin, end);
  });
}
}  // namespace qlora::lora::cpu
#endif
