// Affine rounding of runs of elements that share a grid; equal to affine_math.h bit for bit.
// Included once per SIMD target (Highway).
#if defined(QLORA_QUANT_AFFINE_LANES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef QLORA_QUANT_AFFINE_LANES_INL_H_
#undef QLORA_QUANT_AFFINE_LANES_INL_H_
#else
#define QLORA_QUANT_AFFINE_LANES_INL_H_
#endif

#include "quant/affine_math.h"
#include "quant/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace qlora::quant::HWY_NAMESPACE {

/// Smallest and largest element, and the greatest magnitude as bits (not finite: >= kFloatInfinity;
/// the other two then mean nothing).
struct Range {
  float low;
  float high;
  uint32_t magnitude;
};

inline Range range_of(const float* in, int64_t count) {
  Range r{in[0], in[0], 0};
  int64_t i = 0;
#if HWY_TARGET <= HWY_AVX2
  const int64_t lanes = hn::Lanes(kF32);
  if (count >= lanes) {
    const auto mask = hn::Set(kI32, 0x7FFFFFFF);
    auto low = hn::LoadU(kF32, in), high = low;
    auto most = hn::Zero(kI32);
    for (; i + lanes <= count; i += lanes) {
      const auto x = hn::LoadU(kF32, in + i);
      low = hn::Min(low, x);
      high = hn::Max(high, x);
      most = hn::Max(most, hn::And(hn::BitCast(kI32, x), mask));
    }
    r = {hn::GetLane(hn::MinOfLanes(kF32, low)), hn::GetLane(hn::MaxOfLanes(kF32, high)),
         static_cast<uint32_t>(hn::GetLane(hn::MaxOfLanes(kI32, most)))};
  }
#endif
  for (; i < count; ++i) {
    r.low = in[i] < r.low ? in[i] : r.low;
    r.high = in[i] > r.high ? in[i] : r.high;
    r.magnitude = std::max(r.magnitude, float_bits(in[i]) & ~kFloatSignBit);
  }
  return r;
}

#if HWY_TARGET <= HWY_AVX2

/// affine_math.h for a register of elements on one grid.
struct GridLanes {
  F32 scale, zero, top;

  HWY_INLINE GridLanes(AffineGrid grid, int64_t bits)
      : scale(hn::Set(kF32, grid.scale)),
        zero(hn::Set(kF32, static_cast<float>(grid.zero))),
        top(hn::Set(kF32, static_cast<float>(affine_max_code(bits)))) {}
  HWY_INLINE GridLanes(F32 scale, F32 zero, int64_t bits)
      : scale(scale), zero(zero), top(hn::Set(kF32, static_cast<float>(affine_max_code(bits)))) {}

  /// The code as a float; NaN becomes code 0.
  HWY_INLINE F32 code(F32 w) const {
    const auto code = hn::Add(hn::Round(hn::Div(w, scale)), zero);
    return hn::IfThenElseZero(hn::Gt(code, hn::Zero(kF32)), hn::Min(code, top));
  }
  HWY_INLINE F32 value(F32 code) const { return hn::Mul(hn::Sub(code, zero), scale); }
};

HWY_INLINE void store_codes(F32 code, uint8_t* out) {
  const hn::Rebind<uint8_t, decltype(kI32)> u8;
  hn::StoreU(hn::DemoteTo(u8, hn::ConvertTo(kI32, code)), u8, out);
}
HWY_INLINE F32 load_codes(const uint8_t* in) {
  const hn::Rebind<uint8_t, decltype(kI32)> u8;
  return hn::ConvertTo(kF32, hn::PromoteTo(kI32, hn::LoadU(u8, in)));
}

#endif

/// codes and values (either may be null) of elements on one grid.
///   value_scale  what codes are multiplied with: the grid's scale, or what has become of it
inline void round_run(const float* in, int64_t count, AffineGrid grid, float value_scale,
                      int64_t bits, uint8_t* codes, float* values) {
  int64_t i = 0;
#if HWY_TARGET <= HWY_AVX2
  const int64_t lanes = hn::Lanes(kF32);
  const GridLanes lane_grid(grid, bits), of_values({value_scale, grid.zero}, bits);
  for (; i + lanes <= count; i += lanes) {
    const auto code = lane_grid.code(hn::LoadU(kF32, in + i));
    if (codes != nullptr) store_codes(code, codes + i);
    if (values != nullptr) hn::StoreU(of_values.value(code), kF32, values + i);
  }
#endif
  for (; i < count; ++i) {
    const uint8_t code = affine_code(in[i], grid, bits);
    if (codes != nullptr) codes[i] = code;
    if (values != nullptr) values[i] = affine_value(code, {value_scale, grid.zero});
  }
}

}  // namespace qlora::quant::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
