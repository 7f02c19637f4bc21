#include "quant/fp8_backend.h"

// AVX-512 (AVX3), AVX2 and plain code; nothing in between.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "quant/fp8_cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>
#include <vector>

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

/// Greatest magnitude of a row, as bits.
uint32_t row_magnitude(const float* w, int64_t count) {
  uint32_t most = 0;
  for (int64_t i = 0; i < count; ++i) most = std::max(most, float_bits(w[i]) & ~kFloatSignBit);
  return most;
}

void round_fp8_rows(const Fp8QuantArgs& a, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const float scale = a.scales[a.scale_per_row ? row : 0];
    for (int64_t i = row * a.cols; i < (row + 1) * a.cols; ++i) {
      const uint8_t code = float_to_fp8(a.weight[i] / scale);
      if (a.codes != nullptr) a.codes[i] = code;
      if (a.values != nullptr) a.values[i] = fp8_to_float(code) * scale;
    }
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
HWY_EXPORT(row_magnitude);
HWY_EXPORT(round_fp8_rows);

constexpr int64_t kGrainElements = 1 << 16;

int64_t grain(int64_t cols) {
  return std::max<int64_t>(1, kGrainElements / std::max<int64_t>(1, cols));
}

}  // namespace

void cpu::quantize_fp8(const Fp8QuantArgs& a) {
  std::vector<uint32_t> magnitudes(a.rows);
  parallel_for(a.rows, grain(a.cols), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      magnitudes[row] = HWY_DYNAMIC_DISPATCH(row_magnitude)(a.weight + row * a.cols, a.cols);
    }
  });
  uint32_t most = 0;
  for (int64_t row = 0; row < a.rows; ++row) {
    const float scale = fp8_scale(magnitudes[row], a.scale_type);
    if (!is_finite_bits(float_bits(scale))) {
      *a.first_bad_row = std::min(*a.first_bad_row, row);
      return;
    }
    if (a.scale_per_row) a.scales[row] = scale;
    most = std::max(most, magnitudes[row]);
  }
  if (!a.scale_per_row) a.scales[0] = fp8_scale(most, a.scale_type);
  parallel_for(a.rows, grain(a.cols), [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(round_fp8_rows)(a, begin, end);
  });
}

void cpu::dequantize_fp8(const Fp8DequantArgs& a) {
  parallel_for(a.rows, grain(a.cols), [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(dequantize_fp8_rows)(a, begin, end);
  });
}

}  // namespace qlora::quant
#endif
