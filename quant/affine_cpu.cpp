#include "quant/affine_backend.h"

// AVX-512 (AVX3), AVX2 and plain code; nothing in between.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "quant/affine_cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>
#include <vector>

#include "core/parallel.h"
#include "quant/affine_lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace qlora::quant::HWY_NAMESPACE {

/// Grid of one group; false where it is not finite.
inline bool fit_group(const float* in, const AffineArgs& a, AffineGrid& grid) {
  const Range range = range_of(in, a.group_size);
  if (!is_finite_bits(range.magnitude)) return false;
  grid = affine_grid(range.low, range.high, a.options);
  return is_finite_bits(float_bits(grid.scale));
}

void fit_rows(const AffineArgs& a, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    for (int64_t g = 0; g < a.groups; ++g) {
      AffineGrid grid;
      if (!fit_group(a.weight + row * a.cols + g * a.group_size, a, grid)) {
        return lower_to(a.first_bad_row, row);
      }
      a.scales[row * a.groups + g] = grid.scale;
      a.zeros[row * a.groups + g] = static_cast<uint8_t>(grid.zero);
    }
  }
}

void fit_and_round_rows(const AffineArgs& a, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    for (int64_t g = 0; g < a.groups; ++g) {
      const int64_t at = row * a.cols + g * a.group_size;
      AffineGrid grid;
      if (!fit_group(a.weight + at, a, grid)) return lower_to(a.first_bad_row, row);
      if (a.scales != nullptr) a.scales[row * a.groups + g] = grid.scale;
      if (a.zeros != nullptr) a.zeros[row * a.groups + g] = static_cast<uint8_t>(grid.zero);
      round_run(a.weight + at, a.group_size, grid, grid.scale, a.options.bits,
                a.codes != nullptr ? a.codes + at : nullptr,
                a.values != nullptr ? a.values + at : nullptr);
    }
  }
}

void scaled_error_rows(const AffineArgs& a, const float* by, int64_t begin, int64_t end) {
  std::vector<float> scaled(a.cols);
  for (int64_t row = begin; row < end; ++row) {
    const float* w = a.weight + row * a.cols;
    float* out = a.values + row * a.cols;
    for (int64_t k = 0; k < a.cols; ++k) scaled[k] = w[k] * by[k];
    for (int64_t first = 0; first < a.cols; first += a.group_size) {
      AffineGrid grid;
      if (!fit_group(scaled.data() + first, a, grid)) return lower_to(a.first_bad_row, row);
      round_run(scaled.data() + first, a.group_size, grid, grid.scale, a.options.bits, nullptr,
                out + first);
    }
    for (int64_t k = 0; k < a.cols; ++k) out[k] = out[k] / by[k] - w[k];
  }
}

/// Scales and zero points of a row, one per column.
struct SpreadGrids {
  std::vector<float> scales, zeros;

  explicit SpreadGrids(const AffineArgs& a) : scales(a.cols), zeros(a.cols) {}
  void set(const AffineArgs& a, int64_t row) {
    for (int64_t k = 0; k < a.cols; ++k) {
      const int64_t at = row * a.groups + a.group_of[k];
      scales[k] = a.scales[at];
      zeros[k] = static_cast<float>(a.zeros[at]);
    }
  }
};

void round_spread_row(const AffineArgs& a, int64_t row, const SpreadGrids& grids) {
  const int64_t first = row * a.cols;
  int64_t k = 0;
#if HWY_TARGET <= HWY_AVX2
  const int64_t lanes = hn::Lanes(kF32);
  for (; k + lanes <= a.cols; k += lanes) {
    const GridLanes grid(hn::LoadU(kF32, grids.scales.data() + k),
                         hn::LoadU(kF32, grids.zeros.data() + k), a.options.bits);
    const auto code = grid.code(hn::LoadU(kF32, a.weight + first + k));
    if (a.codes != nullptr) store_codes(code, a.codes + first + k);
    if (a.values != nullptr) hn::StoreU(grid.value(code), kF32, a.values + first + k);
  }
#endif
  for (; k < a.cols; ++k) {
    const AffineGrid grid{grids.scales[k], static_cast<int32_t>(grids.zeros[k])};
    const uint8_t code = affine_code(a.weight[first + k], grid, a.options.bits);
    if (a.codes != nullptr) a.codes[first + k] = code;
    if (a.values != nullptr) a.values[first + k] = affine_value(code, grid);
  }
}

void round_rows(const AffineArgs& a, int64_t begin, int64_t end) {
  if (a.group_of != nullptr) {
    SpreadGrids grids(a);
    for (int64_t row = begin; row < end; ++row) {
      grids.set(a, row);
      round_spread_row(a, row, grids);
    }
    return;
  }
  for (int64_t row = begin; row < end; ++row) {
    for (int64_t g = 0; g < a.groups; ++g) {
      const int64_t at = row * a.cols + g * a.group_size, group = row * a.groups + g;
      const float value_scale = a.value_scales != nullptr ? a.value_scales[group] : a.scales[group];
      round_run(a.weight + at, a.group_size, {a.scales[group], a.zeros[group]}, value_scale,
                a.options.bits, a.codes != nullptr ? a.codes + at : nullptr,
                a.values != nullptr ? a.values + at : nullptr);
    }
  }
}

inline void decode_run(const uint8_t* codes, int64_t count, AffineGrid grid, float* values) {
  int64_t i = 0;
#if HWY_TARGET <= HWY_AVX2
  const int64_t lanes = hn::Lanes(kF32);
  const GridLanes lane_grid(grid, 8);
  for (; i + lanes <= count; i += lanes) {
    hn::StoreU(lane_grid.value(load_codes(codes + i)), kF32, values + i);
  }
#endif
  for (; i < count; ++i) values[i] = affine_value(codes[i], grid);
}

void decode_rows(const AffineArgs& a, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const float* scales = a.scales + row * a.groups;
    const uint8_t* zeros = a.zeros + row * a.groups;
    const uint8_t* codes = a.codes + row * a.cols;
    float* values = a.values + row * a.cols;
    if (a.group_of != nullptr) {
      for (int64_t k = 0; k < a.cols; ++k) {
        const int32_t g = a.group_of[k];
        values[k] = affine_value(codes[k], {scales[g], zeros[g]});
      }
      continue;
    }
    for (int64_t g = 0; g < a.groups; ++g) {
      decode_run(codes + g * a.group_size, a.group_size, {scales[g], zeros[g]},
                 values + g * a.group_size);
    }
  }
}

}  // namespace qlora::quant::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace qlora::quant {
namespace {

HWY_EXPORT(fit_rows);
HWY_EXPORT(fit_and_round_rows);
HWY_EXPORT(round_rows);
HWY_EXPORT(decode_rows);
HWY_EXPORT(scaled_error_rows);

/// Elements that are worth a thread of their own (some 20 microseconds).
constexpr int64_t kGrainElements = 1 << 14;

int64_t grain(const AffineArgs& a) {
  return std::max<int64_t>(1, kGrainElements / a.cols);
}

}  // namespace

void cpu::affine_grids(const AffineArgs& a) {
  parallel_for(a.rows, grain(a), [&](int64_t b, int64_t e) {
    HWY_DYNAMIC_DISPATCH(fit_rows)(a, b, e);
  });
}

void cpu::affine_round(const AffineArgs& a) {
  parallel_for(a.rows, grain(a), [&](int64_t b, int64_t e) {
    HWY_DYNAMIC_DISPATCH(round_rows)(a, b, e);
  });
}

void cpu::affine_fit_and_round(const AffineArgs& a) {
  parallel_for(a.rows, grain(a), [&](int64_t b, int64_t e) {
    HWY_DYNAMIC_DISPATCH(fit_and_round_rows)(a, b, e);
  });
}

void cpu::affine_scaled_error(const AffineArgs& a, const float* column_scale) {
  parallel_for(a.rows, grain(a), [&](int64_t b, int64_t e) {
    HWY_DYNAMIC_DISPATCH(scaled_error_rows)(a, column_scale, b, e);
  });
}

void cpu::affine_values(const AffineArgs& a) {
  parallel_for(a.rows, grain(a), [&](int64_t b, int64_t e) {
    HWY_DYNAMIC_DISPATCH(decode_rows)(a, b, e);
  });
}

}  // namespace qlora::quant
#endif
