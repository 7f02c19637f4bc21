#include "quant/column_sizes_backend.h"

// AVX-512 (AVX3), AVX2 and plain code; nothing in between.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "quant/column_sizes_cpu.cpp"
#include <hwy/foreach_target.h>
// The order matters: foreach_target.h first.
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>

#include "core/parallel.h"
#include "core/simd_float-inl.h"

HWY_BEFORE_NAMESPACE();
namespace qlora::quant::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using namespace qlora::HWY_NAMESPACE;  // NOLINT: the lanes of core/simd_float-inl.h

/// Row after row, as they lie in memory; the sums of the columns stay in the first cache.
template <class T>
void add_rows(const ColumnSizesArgs& a, int64_t begin, int64_t end) {
  const FloatTag d;
  const T* x = static_cast<const T*>(a.x) + begin;
  float* const sums = a.abs_sum + begin;
  float* const tops = a.abs_max + begin;
  for (int64_t row = 0; row < a.rows; ++row, x += a.row_stride) {
    for_lanes(
        d, end - begin,
        [&](int64_t i) {
          const auto size = hn::Abs(load_f32(d, x + i));
          hn::StoreU(hn::Add(hn::LoadU(d, sums + i), size), d, sums + i);
          hn::StoreU(hn::Max(hn::LoadU(d, tops + i), size), d, tops + i);
        },
        [&](int64_t i) {
          const float size = std::abs(load_one(x + i));
          sums[i] += size;
          tops[i] = std::max(tops[i], size);
        });
  }
}

void add_sizes(const ColumnSizesArgs& a, int64_t begin, int64_t end) {
  with_kind(a.kind, [&](auto* p) { add_rows<std::remove_pointer_t<decltype(p)>>(a, begin, end); });
}

}  // namespace qlora::quant::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace qlora::quant {
namespace {

HWY_EXPORT(add_sizes);

/// Columns are shared out in portions of a cache line or more.
constexpr int64_t kColumns = 64;

}  // namespace

void cpu::add_column_sizes(const ColumnSizesArgs& a) {
  parallel_for((a.cols + kColumns - 1) / kColumns, 1, [&](int64_t b, int64_t e) {
    HWY_DYNAMIC_DISPATCH(add_sizes)(a, b * kColumns, std::min(a.cols, e * kColumns));
  });
}

}  // namespace qlora::quant
#endif
