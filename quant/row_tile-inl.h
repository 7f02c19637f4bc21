// Tiles of rows: one row of a weight per lane, column after column. Nothing is ever summed across
// lanes, so the width of a register changes no bit. Included once per SIMD target (Highway).
#if defined(QLORA_QUANT_ROW_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef QLORA_QUANT_ROW_TILE_INL_H_
#undef QLORA_QUANT_ROW_TILE_INL_H_
#else
#define QLORA_QUANT_ROW_TILE_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cstdint>

#include "quant/affine_lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace qlora::quant::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

constexpr int64_t kMostLanes = 16;
using Tag = hn::CappedTag<float, kMostLanes>;
using Lanes = hn::Vec<Tag>;

inline int64_t tile_rows() {
  return static_cast<int64_t>(hn::Lanes(Tag()));
}

/// Grids of the rows of a tile.
struct TileGrids {
  HWY_ALIGN float scales[kMostLanes] = {};
  HWY_ALIGN float zeros[kMostLanes] = {};
};

/// affine_math.h, one grid per lane.
struct TileGrid {
  Lanes scale, zero, top;

  HWY_INLINE TileGrid(const TileGrids& g, int64_t bits)
      : scale(hn::Load(Tag(), g.scales)),
        zero(hn::Load(Tag(), g.zeros)),
        top(hn::Set(Tag(), static_cast<float>(affine_max_code(bits)))) {}

  HWY_INLINE Lanes code(Lanes w) const {
    const auto code = hn::Add(hn::Round(hn::Div(w, scale)), zero);
    return hn::IfThenElseZero(hn::Gt(code, hn::Zero(Tag())), hn::Min(code, top));
  }
  HWY_INLINE Lanes value(Lanes code) const { return hn::Mul(hn::Sub(code, zero), scale); }
};

/// Columns [begin, end) of rows [row, row + live); lanes beyond repeat the last row.
inline void load_tile(const float* weight, int64_t cols, int64_t row, int64_t live, int64_t begin,
                      int64_t end, float* w) {
  const int64_t lanes = tile_rows();
  for (int64_t r = 0; r < lanes; ++r) {
    const float* from = weight + (row + std::min(r, live - 1)) * cols + begin;
    for (int64_t k = 0; k < end - begin; ++k) w[k * lanes + r] = from[k];
  }
}

/// Range of each row of a tile over `count` columns.
inline void tile_range(const float* w, int64_t count, float* lows, float* highs) {
  const Tag d;
  const int64_t lanes = tile_rows();
  auto low = hn::Load(d, w), high = low;
  for (int64_t k = 1; k < count; ++k) {
    const auto x = hn::Load(d, w + k * lanes);
    low = hn::Min(low, x);
    high = hn::Max(high, x);
  }
  hn::Store(low, d, lows);
  hn::Store(high, d, highs);
}

/// One grid per lane from its range. False where one is not finite.
inline bool fit_lanes(const float* lows, const float* highs, float part, const AffineOptions& o,
                      TileGrids& grids) {
  for (int64_t r = 0; r < tile_rows(); ++r) {
    const AffineGrid grid = affine_grid(lows[r] * part, highs[r] * part, o);
    if (!is_finite_bits(float_bits(grid.scale))) return false;
    grids.scales[r] = grid.scale;
    grids.zeros[r] = static_cast<float>(grid.zero);
  }
  return true;
}

}  // namespace qlora::quant::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
