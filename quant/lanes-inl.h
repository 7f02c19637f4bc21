// What the SIMD files of this folder share: lanes of f32 from and to memory, the absmax of a block.
// Included once per SIMD target (Highway).
#if defined(QLORA_QUANT_LANES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef QLORA_QUANT_LANES_INL_H_
#undef QLORA_QUANT_LANES_INL_H_
#else
#define QLORA_QUANT_LANES_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "core/simd_float-inl.h"
#include "quant/float_math.h"

HWY_BEFORE_NAMESPACE();
namespace qlora::quant::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET <= HWY_AVX2  // and everything better, which has a smaller number

const hn::ScalableTag<float> kF32;
const hn::RebindToUnsigned<decltype(kF32)> kU32;
const hn::RebindToSigned<decltype(kF32)> kI32;
using F32 = hn::Vec<decltype(kF32)>;
using U32 = hn::Vec<decltype(kU32)>;
using I32 = hn::Vec<decltype(kI32)>;

HWY_INLINE F32 load_lanes(const float* in) {
  return qlora::HWY_NAMESPACE::load_f32(kF32, in);
}
HWY_INLINE F32 load_lanes(const F16* in) {
  return qlora::HWY_NAMESPACE::load_f32(kF32, reinterpret_cast<const hwy::float16_t*>(in));
}
HWY_INLINE F32 load_lanes(const BF16* in) {
  return qlora::HWY_NAMESPACE::load_f32(kF32, reinterpret_cast<const hwy::bfloat16_t*>(in));
}

HWY_INLINE void store_lanes(F32 v, float* out) {
  qlora::HWY_NAMESPACE::store_f32(kF32, v, out);
}
HWY_INLINE void store_lanes(F32 v, F16* out) {
  qlora::HWY_NAMESPACE::store_f32(kF32, v, reinterpret_cast<hwy::float16_t*>(out));
}
HWY_INLINE void store_lanes(F32 v, BF16* out) {
  qlora::HWY_NAMESPACE::store_f32(kF32, v, reinterpret_cast<hwy::bfloat16_t*>(out));
}

#endif

/// Greatest |x| of a block as bits, which order as the numbers do; NaN and infinity come out on
/// top.
template <class In>
uint32_t absmax_bits(const In* in, int64_t count) {
  uint32_t bits = 0;
  int64_t i = 0;
#if HWY_TARGET <= HWY_AVX2
  const int64_t lanes = hn::Lanes(kF32);
  const auto magnitude = hn::Set(kI32, 0x7FFFFFFF);
  auto most = hn::Zero(kI32);
  for (; i + lanes <= count; i += lanes) {
    most = hn::Max(most, hn::And(hn::BitCast(kI32, load_lanes(in + i)), magnitude));
  }
  bits = static_cast<uint32_t>(hn::GetLane(hn::MaxOfLanes(kI32, most)));
#endif
  for (; i < count; ++i) bits = std::max(bits, float_bits(to_float(in[i])) & ~kFloatSignBit);
  return bits;
}

/// *least = min(*least, block), from any thread.
inline void lower_to(int64_t* least, int64_t block) {
  std::atomic_ref<int64_t> shared(*least);
  int64_t seen = shared.load();
  while (block < seen && !shared.compare_exchange_weak(seen, block)) {
  }
}

}  // namespace qlora::quant::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
