#include "quant/fp8_backend.h"

// AVX-512 (AVX3), AVX2 and plain code; nothing in between.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "quant/fp8_cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>

#include "core/parallel.h"
#include "quant/fp8_math.h"
#include "quant/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace qlora::quant::HWY_NAMESPACE {

template <class Out>
void decode_fp8_row(const uint8_t* codes, int64_t count, float scale, Out* out) {
  int64_t i = 0;
#if HWY_TARGET <= HWY_AVX2
  const int64_t lanes = hn::Lanes(kF32);
  const hn::Rebind<uint8_t, decltype(kU32)> u8;
  const auto factor = hn::Set(kF32, scale);
  for (; i + lanes <= count; i += lanes) {
    const auto code = hn::PromoteTo(kU32, hn::LoadU(u8, codes + i));
    const auto magnitude = hn::And(code, hn::Set(kU32, 0x7Fu));
    // As the bits of a float the magnitude is fp8 · 2^-120, subnormals included: exact to scale up.
    const auto tiny = hn::BitCast(kF32, hn::ShiftLeft<20>(magnitude));
    const auto value = hn::BitCast(kU32, hn::Mul(tiny, hn::Set(kF32, 0x1p120f)));
    const auto sign = hn::ShiftLeft<24>(hn::And(code, hn::Set(kU32, 0x80u)));
    store_lanes(hn::Mul(hn::BitCast(kF32, hn::Or(value, sign)), factor), out + i);
  }
#endif
  for (; i < count; ++i) store_rounded(fp8_to_float(codes[i]) * scale, out + i);
}

template <class Out>
void decode_fp8_rows(const Fp8DequantArgs& a, int64_t begin, int64_t end, Out* out) {
  for (int64_t row = begin; row < end; ++row) {
    const float scale = a.scales[a.scale_per_row ? row : 0];
    decode_fp8_row(a.codes + row * a.cols, a.cols, scale, out + row * a.cols);
  }
}

void dequantize_fp8_rows(const Fp8DequantArgs& a, int64_t begin, int64_t end) {
  with_kind(a.out_kind, [&](auto* type) {
    decode_fp8_rows(a, begin, end, static_cast<decltype(type)>(a.out));
  });
}

}  // namespace qlora::quant::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace qlora::quant {
namespace {

HWY_EXPORT(dequantize_fp8_rows);

constexpr int64_t kGrainElements = 1 << 16;

}  // namespace

void cpu::dequantize_fp8(const Fp8DequantArgs& a) {
  parallel_for(a.rows, std::max<int64_t>(1, kGrainElements / std::max<int64_t>(1, a.cols)),
               [&](int64_t begin, int64_t end) {
                 HWY_DYNAMIC_DISPATCH(dequantize_fp8_rows)(a, begin, end);
               });
}

}  // namespace qlora::quant
#endif
