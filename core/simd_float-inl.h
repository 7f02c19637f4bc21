// Lanes of f32 from and to f32, f16 and bf16 memory. Included once per SIMD target (Highway).
// NOLINTBEGIN(llvm-header-guard): the guard toggles with the target.
#if defined(QLORA_CORE_SIMD_FLOAT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef QLORA_CORE_SIMD_FLOAT_INL_H_
#undef QLORA_CORE_SIMD_FLOAT_INL_H_
#else
#define QLORA_CORE_SIMD_FLOAT_INL_H_
#endif
// NOLINTEND(llvm-header-guard)

#include <hwy/highway.h>

#include <cstdint>
#include <cstring>

#include "core/float_kind.h"

HWY_BEFORE_NAMESPACE();
namespace qlora::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using FloatTag = hn::ScalableTag<float>;
using FloatLanes = hn::Vec<FloatTag>;

HWY_INLINE FloatLanes load_f32(FloatTag d, const float* from) {
  return hn::LoadU(d, from);
}

HWY_INLINE FloatLanes load_f32(FloatTag d, const hwy::float16_t* from) {
  const hn::Rebind<hwy::float16_t, FloatTag> d16;
  return hn::PromoteTo(d, hn::LoadU(d16, from));
}

HWY_INLINE FloatLanes load_f32(FloatTag d, const hwy::bfloat16_t* from) {
  const hn::Rebind<uint16_t, FloatTag> d16;
  const hn::RebindToUnsigned<FloatTag> d32;
  const auto bits = hn::LoadU(d16, reinterpret_cast<const uint16_t*>(from));
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(d32, bits)));
}

HWY_INLINE void store_f32(FloatTag d, FloatLanes v, float* to) {
  hn::StoreU(v, d, to);
}

/// Rounds to nearest even.
HWY_INLINE void store_f32(FloatTag /*d*/, FloatLanes v, hwy::float16_t* to) {
  const hn::Rebind<hwy::float16_t, FloatTag> d16;
  hn::StoreU(hn::DemoteTo(d16, v), d16, to);
}

/// Rounds to nearest even; NaN stays NaN. Highway's own DemoteTo cuts the low bits off.
HWY_INLINE void store_f32(FloatTag /*d*/, FloatLanes v, hwy::bfloat16_t* to) {
  const hn::RebindToUnsigned<FloatTag> d32;
  const hn::RebindToSigned<FloatTag> di32;
  const hn::Rebind<uint16_t, FloatTag> d16;
  const auto bits = hn::BitCast(d32, v);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(d32, 1u));
  const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(d32, 0x7FFFu)));
  const auto quiet = hn::Set(d32, 0x7FC00000u);
  const auto chosen = hn::IfThenElse(hn::RebindMask(d32, hn::IsNaN(v)), quiet, rounded);
  const auto high = hn::BitCast(di32, hn::ShiftRight<16>(chosen));
  hn::StoreU(hn::DemoteTo(d16, high), d16, reinterpret_cast<uint16_t*>(to));
}

/// One element, for the tails that do not fill a vector. Same rounding as the lanes.
template <class T>
HWY_INLINE float load_one(const T* from) {
  const hn::CappedTag<float, 1> d;
  if constexpr (sizeof(T) == 4) {
    return *from;
  } else if constexpr (std::is_same_v<T, hwy::bfloat16_t>) {
    uint16_t half;
    std::memcpy(&half, from, 2);
    const uint32_t bits = static_cast<uint32_t>(half) << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
  } else {
    const hn::Rebind<hwy::float16_t, decltype(d)> d16;
    return hn::GetLane(hn::PromoteTo(d, hn::LoadU(d16, from)));
  }
}

template <class T>
HWY_INLINE void store_one(float value, T* to) {
  const hn::CappedTag<float, 1> d;
  if constexpr (sizeof(T) == 4) {
    *to = value;
  } else if constexpr (std::is_same_v<T, hwy::bfloat16_t>) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    bits = value != value ? 0x7FC00000u : bits + 0x7FFFu + ((bits >> 16) & 1u);
    const uint16_t half = static_cast<uint16_t>(bits >> 16);
    std::memcpy(to, &half, 2);
  } else {
    const hn::Rebind<hwy::float16_t, decltype(d)> d16;
    hn::StoreU(hn::DemoteTo(d16, hn::Set(d, value)), d16, to);
  }
}

/// Calls body(i, lanes) for whole vectors of [0, n), then tail(i) for single elements.
template <class Body, class Tail>
HWY_INLINE void for_lanes(FloatTag d, int64_t n, const Body& body, const Tail& tail) {
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) body(i);
  for (; i < n; ++i) tail(i);
}

/// Runs f with a typed null pointer for kind: f(float*), f(hwy::float16_t*) or f(hwy::bfloat16_t*).
template <class F>
HWY_INLINE void with_kind(FloatKind kind, const F& f) {
  switch (kind) {
    case FloatKind::kF32:
      return f(static_cast<float*>(nullptr));
    case FloatKind::kF16:
      return f(static_cast<hwy::float16_t*>(nullptr));
    case FloatKind::kBF16:
      return f(static_cast<hwy::bfloat16_t*>(nullptr));
  }
}

}  // namespace qlora::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
