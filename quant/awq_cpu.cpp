#include "quant/awq_backend.h"

// AVX-512 (AVX3), AVX2 and plain code; nothing in between.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "quant/awq_cpu.cpp"
#include <hwy/aligned_allocator.h>
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>

#include "core/parallel.h"
#include "quant/row_tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace qlora::quant::HWY_NAMESPACE {

/// dᵀ G d of each lane: the diagonal once, what stands right of it twice.
HWY_INLINE Lanes quadratic(const float* d, const float* gram, int64_t cols, int64_t count) {
  const Tag tag;
  const int64_t lanes = tile_rows();
  auto sum = hn::Zero(tag);
  for (int64_t i = 0; i < count; ++i) {
    const float* g = gram + i * cols;
    const auto own = hn::Load(tag, d + i * lanes);
    auto right = hn::Zero(tag);
    for (int64_t j = i + 1; j < count; ++j) {
      right = hn::Add(right, hn::Mul(hn::Load(tag, d + j * lanes), hn::Set(tag, g[j])));
    }
    const auto all = hn::Add(hn::Mul(own, hn::Set(tag, g[i])), hn::Add(right, right));
    sum = hn::Add(sum, hn::Mul(own, all));
  }
  return sum;
}

/// round(w cut to ±magnitude) - w for `count` columns.
HWY_INLINE void cut_error(const float* w, int64_t count, Lanes magnitude, const TileGrid& grid,
                          float* out) {
  const Tag tag;
  const int64_t lanes = tile_rows();
  const auto least = hn::Neg(magnitude);
  for (int64_t k = 0; k < count; ++k) {
    const auto x = hn::Load(tag, w + k * lanes);
    const auto cut = hn::Min(hn::Max(x, least), magnitude);
    hn::Store(hn::Sub(grid.value(grid.code(cut)), x), tag, out + k * lanes);
  }
}

/// Magnitudes of one group of a tile. False where a grid is not finite.
bool clip_tile(const ClipArgs& a, const float* w, const float* gram, float* scratch,
               float* magnitudes) {
  const Tag tag;
  HWY_ALIGN float lows[kMostLanes] = {}, highs[kMostLanes] = {};
  HWY_ALIGN float cut_lows[kMostLanes] = {}, cut_highs[kMostLanes] = {}, cuts[kMostLanes] = {};
  HWY_ALIGN float errors[kMostLanes] = {}, least[kMostLanes] = {};
  tile_range(w, a.group_size, lows, highs);
  for (int64_t step = 0; step < a.tried; ++step) {
    for (int64_t r = 0; r < tile_rows(); ++r) {
      cuts[r] = std::max(-lows[r], highs[r]) * kept_magnitude(step, a.steps);
      cut_lows[r] = std::min(std::max(lows[r], -cuts[r]), cuts[r]);
      cut_highs[r] = std::min(std::max(highs[r], -cuts[r]), cuts[r]);
    }
    TileGrids grids;
    if (!fit_lanes(cut_lows, cut_highs, 1, a.options, grids)) return false;
    cut_error(w, a.group_size, hn::Load(tag, cuts), TileGrid(grids, a.options.bits), scratch);
    hn::Store(quadratic(scratch, gram, a.cols, a.group_size), tag, errors);
    for (int64_t r = 0; r < tile_rows(); ++r) {
      if (step > 0 && !(errors[r] < least[r])) continue;
      least[r] = errors[r];
      magnitudes[r] = cuts[r];
    }
  }
  return true;
}

void clip_tiles(const ClipArgs& a, int64_t begin, int64_t end) {
  const int64_t lanes = tile_rows(), groups = a.cols / a.group_size;
  const auto w = hwy::AllocateAligned<float>(a.group_size * lanes);
  const auto scratch = hwy::AllocateAligned<float>(a.group_size * lanes);
  for (int64_t g = 0; g < groups; ++g) {  // outside: the group's Gram matrix stays in the cache
    const int64_t first = g * a.group_size;
    for (int64_t row = begin; row < end; row += lanes) {
      const int64_t live = std::min(lanes, end - row);
      HWY_ALIGN float magnitudes[kMostLanes] = {};
      load_tile(a.weight, a.cols, row, live, first, first + a.group_size, w.get());
      if (!clip_tile(a, w.get(), a.gram + first * a.cols + first, scratch.get(), magnitudes)) {
        lower_to(a.first_bad_row, row);
        continue;
      }
      for (int64_t r = 0; r < live; ++r) a.magnitudes[(row + r) * groups + g] = magnitudes[r];
    }
  }
}

}  // namespace qlora::quant::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace qlora::quant {
namespace {

HWY_EXPORT(clip_tiles);

/// Rows that one thread takes at once: a whole number of tiles.
constexpr int64_t kRowsOfTile = 16;

}  // namespace

void cpu::search_clip(const ClipArgs& a) {
  parallel_for((a.rows + kRowsOfTile - 1) / kRowsOfTile, 1, [&](int64_t b, int64_t e) {
    HWY_DYNAMIC_DISPATCH(clip_tiles)(a, b * kRowsOfTile, std::min(a.rows, e * kRowsOfTile));
  });
}

}  // namespace qlora::quant
#endif
