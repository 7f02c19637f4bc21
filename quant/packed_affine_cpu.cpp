#include "quant/packed_affine_backend.h"

// AVX-512 (AVX3), AVX2 and plain code; nothing in between.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "quant/packed_affine_cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>
#include <vector>

#include "core/parallel.h"
#include "quant/affine_math.h"
#include "quant/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace qlora::quant::HWY_NAMESPACE {

/// One row's grids as numbers to compute with.
struct RowGrids {
  const float* scales;
  const int32_t* zeros;
};

#if HWY_TARGET <= HWY_AVX2

/// Codes of columns [col, col + lanes); col is even where two share a byte.
HWY_INLINE I32 load_codes(const uint8_t* row, int64_t col, bool two_a_byte) {
  const hn::Rebind<uint8_t, decltype(kI32)> u8;
  if (!two_a_byte) return hn::PromoteTo(kI32, hn::LoadU(u8, row + col));
  const hn::Half<decltype(u8)> bytes;
  const hn::Rebind<uint16_t, decltype(bytes)> u16;
  const auto pair = hn::PromoteTo(u16, hn::LoadU(bytes, row + col / 2));
  const auto low = hn::And(pair, hn::Set(u16, 15));
  const auto high = hn::ShiftLeft<4>(hn::And(pair, hn::Set(u16, 0xF0)));
  return hn::PromoteTo(kI32, hn::BitCast(u8, hn::Or(low, high)));
}

#endif

/// Columns [begin, end) that share one grid.
template <class Out>
void decode_run(const uint8_t* row, int64_t begin, int64_t end, bool two_a_byte, AffineGrid grid,
                Out* out) {
  int64_t k = begin;
#if HWY_TARGET <= HWY_AVX2
  const int64_t lanes = hn::Lanes(kF32);
  const auto scale = hn::Set(kF32, grid.scale);
  const auto zero = hn::Set(kI32, grid.zero);
  if (begin % 2 == 0 || !two_a_byte) {
    for (; k + lanes <= end; k += lanes) {
      const auto steps = hn::Sub(load_codes(row, k, two_a_byte), zero);
      store_lanes(hn::Mul(hn::ConvertTo(kF32, steps), scale), out + k);
    }
  }
#endif
  for (; k < end; ++k) store_rounded(affine_value(packed_code(row, k, two_a_byte), grid), out + k);
}

/// Columns whose groups are given one by one.
template <class Out>
void decode_grouped(const uint8_t* row, int64_t cols, bool two_a_byte, const int32_t* group_of,
                    RowGrids grids, Out* out) {
  int64_t k = 0;
#if HWY_TARGET <= HWY_AVX2
  const int64_t lanes = hn::Lanes(kF32);
  for (; k + lanes <= cols; k += lanes) {
    const auto group = hn::LoadU(kI32, group_of + k);
    const auto zero = hn::GatherIndex(kI32, grids.zeros, group);
    const auto scale = hn::GatherIndex(kF32, grids.scales, group);
    const auto steps = hn::Sub(load_codes(row, k, two_a_byte), zero);
    store_lanes(hn::Mul(hn::ConvertTo(kF32, steps), scale), out + k);
  }
#endif
  for (; k < cols; ++k) {
    const AffineGrid grid{grids.scales[group_of[k]], grids.zeros[group_of[k]]};
    store_rounded(affine_value(packed_code(row, k, two_a_byte), grid), out + k);
  }
}

template <class Out>
void decode_rows(const PackedAffineArgs& a, int64_t begin, int64_t end, Out* out) {
  std::vector<float> scales(static_cast<size_t>(a.groups));
  std::vector<int32_t> zeros(static_cast<size_t>(a.groups));
  for (int64_t n = begin; n < end; ++n) {
    for (int64_t g = 0; g < a.groups; ++g) {
      scales[g] = load_number(a.scale_kind, a.scales, n * a.groups + g);
      zeros[g] = a.zeros[n * a.groups + g];
    }
    const uint8_t* row = a.codes + n * a.row_bytes;
    Out* to = out + n * a.cols;
    if (a.group_of != nullptr) {
      decode_grouped(row, a.cols, a.two_a_byte, a.group_of, {scales.data(), zeros.data()}, to);
      continue;
    }
    for (int64_t g = 0; g < a.groups; ++g) {
      decode_run(row, g * a.group_size, (g + 1) * a.group_size, a.two_a_byte, {scales[g], zeros[g]},
                 to);
    }
  }
}

void dequantize_packed_rows(const PackedAffineArgs& a, int64_t begin, int64_t end) {
  with_kind(a.out_kind,
            [&](auto* type) { decode_rows(a, begin, end, static_cast<decltype(type)>(a.out)); });
}

}  // namespace qlora::quant::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace qlora::quant {
namespace {

HWY_EXPORT(dequantize_packed_rows);

constexpr int64_t kGrainElements = 1 << 16;

}  // namespace

void cpu::dequantize_packed(const PackedAffineArgs& a) {
  parallel_for(a.rows, std::max<int64_t>(1, kGrainElements / std::max<int64_t>(1, a.cols)),
               [&](int64_t begin, int64_t end) {
                 HWY_DYNAMIC_DISPATCH(dequantize_packed_rows)(a, begin, end);
               });
}

}  // namespace qlora::quant
#endif
