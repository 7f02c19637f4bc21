#include "model/rope_backend.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "model/rope_cpu.cpp"
#include <hwy/foreach_target.h>
// The order matters: foreach_target.h first.
#include <hwy/highway.h>

#include <cstring>

#include "core/parallel.h"
#include "core/simd_float-inl.h"

HWY_BEFORE_NAMESPACE();
namespace qlora::model::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using namespace qlora::HWY_NAMESPACE;  // NOLINT: the lanes of core/simd_float-inl.h

template <class T>
void rotate(const RopeArgs& a, int64_t begin, int64_t end) {
  const FloatTag d;
  const int64_t half = a.rotary_dim / 2;
  const size_t rest = static_cast<size_t>(a.head_dim - a.rotary_dim) * sizeof(T);
  const auto sign = hn::Set(d, a.sin_sign);
  for (int64_t t = begin; t < end; ++t) {
    const float* cos = a.cos + t * half;
    const float* sin = a.sin + t * half;
    for (int64_t h = 0; h < a.heads; ++h) {
      const T* x = static_cast<const T*>(a.x) + (t * a.heads + h) * a.head_dim;
      T* y = static_cast<T*>(a.y) + (t * a.heads + h) * a.head_dim;
      for_lanes(
          d, half,
          [&](int64_t i) {
            const auto c = hn::LoadU(d, cos + i);
            const auto s = hn::Mul(hn::LoadU(d, sin + i), sign);
            const auto x1 = load_f32(d, x + i), x2 = load_f32(d, x + half + i);
            store_f32(d, hn::Sub(hn::Mul(x1, c), hn::Mul(x2, s)), y + i);
            store_f32(d, hn::Add(hn::Mul(x2, c), hn::Mul(x1, s)), y + half + i);
          },
          [&](int64_t i) {
            const float c = cos[i], s = sin[i] * a.sin_sign;
            const float x1 = load_one(x + i), x2 = load_one(x + half + i);
            store_one(x1 * c - x2 * s, y + i);
            store_one(x2 * c + x1 * s, y + half + i);
          });
      if (rest > 0) {
        std::memcpy(static_cast<void*>(y + a.rotary_dim), x + a.rotary_dim, rest);
      }
    }
  }
}

void rope(const RopeArgs& a, int64_t begin, int64_t end) {
  with_kind(a.kind, [&](auto* p) { rotate<std::remove_pointer_t<decltype(p)>>(a, begin, end); });
}

}  // namespace qlora::model::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace qlora::model::cpu {
HWY_EXPORT(rope);

void rope(const RopeArgs& a) {
  parallel_for(a.tokens, 16, [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(rope)(a, begin, end);
  });
}
}  // namespace qlora::model::cpu
#endif
