#include "lora/lora_sum_backend.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "lora/lora_sum_cpu.cpp"
#include <hwy/foreach_target.h>
// The order matters: foreach_target.h first.
#include <hwy/highway.h>

#include "core/parallel.h"
#include "core/simd_float-inl.h"

HWY_BEFORE_NAMESPACE();
namespace qlora::lora::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using namespace qlora::HWY_NAMESPACE;  // NOLINT: the lanes of core/simd_float-inl.h

template <class In, class Out>
void sum_rows(const LoraSumArgs& a, int64_t begin, int64_t end) {
  const FloatTag d;
  for (int64_t t = begin; t < end; ++t) {
    const In* base = static_cast<const In*>(a.base) + t * a.width;
    const In* delta = a.delta ? static_cast<const In*>(a.delta) + t * a.width : nullptr;
    Out* y = static_cast<Out*>(a.y) + t * a.width;
    for_lanes(
        d, a.width,
        [&](int64_t i) {
          auto v = load_f32(d, base + i);
          if (delta) v = hn::Add(v, load_f32(d, delta + i));
          if (a.bias) v = hn::Add(v, hn::LoadU(d, a.bias + i));
          store_f32(d, v, y + i);
        },
        [&](int64_t i) {
          float v = load_one(base + i);
          if (delta) v += load_one(delta + i);
          if (a.bias) v += a.bias[i];
          store_one(v, y + i);
        });
  }
}

void lora_sum(const LoraSumArgs& a, int64_t begin, int64_t end) {
  with_kind(a.in_kind, [&](auto* in) {
    with_kind(a.out_kind, [&](auto* out) {
      sum_rows<std::remove_pointer_t<decltype(in)>, std::remove_pointer_t<decltype(out)>>(a, begin,
                                                                                          end);
    });
  });
}

}  // namespace qlora::lora::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace qlora::lora::cpu {
HWY_EXPORT(lora_sum);

void lora_sum(const LoraSumArgs& a) {
  parallel_for(a.tokens, 16, [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(lora_sum)(a, begin, end);
  });
}
}  // namespace qlora::lora::cpu
#endif
