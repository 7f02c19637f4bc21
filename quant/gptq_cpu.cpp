#include "quant/gptq_backend.h"

// AVX-512 (AVX3), AVX2 and plain code; nothing in between.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "quant/gptq_cpu.cpp"
#include <hwy/aligned_allocator.h>
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>

#include "core/parallel.h"
#include "quant/row_tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace qlora::quant::HWY_NAMESPACE {

/// w[j] -= e · u[j] for columns [begin, end) of a tile.
HWY_INLINE void subtract(Lanes e, const float* u, int64_t begin, int64_t end, float* w) {
  const Tag d;
  const int64_t lanes = tile_rows();
  for (int64_t j = begin; j < end; ++j) {
    float* at = w + j * lanes;
    hn::Store(hn::Sub(hn::Load(d, at), hn::Mul(e, hn::Set(d, u[j]))), d, at);
  }
}

/// A tile and what its columns need.
struct Tile {
  const float* factor;  // row of U of the tile's first column, at that column
  int64_t cols;         // between rows of U
  float* w;             // [columns, lanes]
  float* scratch;       // as large
};

/// Squared error of `count` columns on a grid, each weighted.
HWY_INLINE Lanes squared_error(const float* w, const float* weight, int64_t count,
                               const TileGrid& grid) {
  const Tag d;
  const int64_t lanes = tile_rows();
  auto sum = hn::Zero(d);
  for (int64_t k = 0; k < count; ++k) {
    const auto x = hn::Load(d, w + k * lanes);
    const auto e = hn::Sub(x, grid.value(grid.code(x)));
    sum = hn::Add(sum, hn::Mul(hn::Mul(e, e), hn::Set(d, weight[k])));
  }
  return sum;
}

/// Squared error that GPTQ ends with in columns [first, first + count) of a tile on a grid.
HWY_INLINE Lanes gptq_error(const Tile& t, int64_t first, int64_t count, const TileGrid& grid) {
  const Tag d;
  const int64_t lanes = tile_rows();
  std::copy_n(t.w + first * lanes, count * lanes, t.scratch);
  auto sum = hn::Zero(d);
  for (int64_t k = 0; k < count; ++k) {
    const float* u = t.factor + (first + k) * t.cols + first;
    const auto x = hn::Load(d, t.scratch + k * lanes);
    const auto e = hn::Div(hn::Sub(x, grid.value(grid.code(x))), hn::Set(d, u[k]));
    sum = hn::Add(sum, hn::Mul(e, e));
    subtract(e, u, k + 1, count, t.scratch);
  }
  return sum;
}

/// Grids of the group in columns [first, first + count) of a tile. False where one is not finite.
bool fit_tile(const Tile& t, int64_t first, int64_t count, const GridSearch& s,
              const float* column_weight, TileGrids& best) {
  const Tag d;
  const int64_t lanes = tile_rows();
  const float* w = t.w + first * lanes;
  HWY_ALIGN float lows[kMostLanes] = {}, highs[kMostLanes] = {};
  HWY_ALIGN float errors[kMostLanes] = {}, least[kMostLanes] = {};
  tile_range(w, count, lows, highs);
  const int64_t steps = s.kind == ScaleSearch::kMinMax ? 1 : s.steps;
  for (int64_t step = 0; step < steps; ++step) {
    const float part = kept_range(step, steps, s.least);
    TileGrids tried;
    if (!fit_lanes(lows, highs, part, s.affine, tried)) return false;
    if (steps == 1) {
      best = tried;
      break;
    }
    const TileGrid grid(tried, s.affine.bits);
    hn::Store(s.kind == ScaleSearch::kMse ? squared_error(w, column_weight, count, grid)
                                          : gptq_error(t, first, count, grid),
              d, errors);
    for (int64_t r = 0; r < lanes; ++r) {
      if (step > 0 && !(errors[r] < least[r])) continue;
      least[r] = errors[r];
      best.scales[r] = tried.scales[r];
      best.zeros[r] = tried.zeros[r];
    }
  }
  return true;
}

void store_grids(const TileGrids& grids, int64_t row, int64_t live, int64_t groups, int64_t group,
                 float* scales, uint8_t* zeros) {
  for (int64_t r = 0; r < live; ++r) {
    scales[(row + r) * groups + group] = grids.scales[r];
    zeros[(row + r) * groups + group] = static_cast<uint8_t>(grids.zeros[r]);
  }
}

void load_grids(const GptqBlockArgs& a, int64_t row, int64_t live, int64_t group,
                TileGrids& grids) {
  for (int64_t r = 0; r < kMostLanes; ++r) {
    const int64_t at = (row + std::min(r, live - 1)) * a.groups + group;
    grids.scales[r] = a.scales[at];
    grids.zeros[r] = static_cast<float>(a.zeros[at]);
  }
}

/// One tile of rows through the columns of the block. False where a grid is not finite.
bool round_tile(const GptqBlockArgs& a, int64_t row, int64_t live, const Tile& t) {
  const Tag d;
  const int64_t lanes = tile_rows();
  const int64_t width = a.end - a.begin;
  HWY_ALIGN float codes[kMostLanes] = {}, errors[kMostLanes] = {};
  TileGrids grids;
  int64_t group = -1;
  for (int64_t i = 0; i < width; ++i) {
    const int64_t k = a.begin + i;
    const bool starts = a.fits && k % a.group_size == 0;
    if (starts) {
      const float* weights =
          a.search.column_weight != nullptr ? a.search.column_weight + k : nullptr;
      if (!fit_tile(t, i, a.group_size, a.search, weights, grids)) return false;
      store_grids(grids, row, live, a.groups, a.column_group[k], a.scales, a.zeros);
    } else if (a.column_group[k] != group) {
      load_grids(a, row, live, a.column_group[k], grids);
    }
    group = a.column_group[k];

    const TileGrid grid(grids, a.search.affine.bits);
    const float* u = t.factor + i * t.cols;
    const auto w = hn::Load(d, t.w + i * lanes);
    const auto code = grid.code(w);
    const auto e = hn::Div(hn::Sub(w, grid.value(code)), hn::Set(d, u[i]));
    subtract(e, u, i + 1, width, t.w);
    hn::Store(code, d, codes);
    hn::Store(e, d, errors);
    for (int64_t r = 0; r < live; ++r) {
      a.codes[(row + r) * a.cols + k] = static_cast<uint8_t>(codes[r]);
      a.errors[(row + r) * width + i] = errors[r];
    }
  }
  return true;
}

void gptq_tiles(const GptqBlockArgs& a, int64_t begin, int64_t end) {
  const int64_t lanes = tile_rows();
  const int64_t last = a.begin + gptq_columns(a);
  const auto w = hwy::AllocateAligned<float>((last - a.begin) * lanes);
  const auto scratch = hwy::AllocateAligned<float>((last - a.begin) * lanes);
  const Tile tile{a.factor + a.begin * a.cols + a.begin, a.cols, w.get(), scratch.get()};
  for (int64_t row = begin; row < end; row += lanes) {
    const int64_t live = std::min(lanes, end - row);
    load_tile(a.weight, a.cols, row, live, a.begin, last, w.get());
    if (!round_tile(a, row, live, tile)) return lower_to(a.first_bad_row, row);
  }
}

void search_tiles(const GridSearchArgs& a, int64_t begin, int64_t end) {
  const int64_t lanes = tile_rows();
  const auto w = hwy::AllocateAligned<float>(a.cols * lanes);
  const Tile tile{nullptr, a.cols, w.get(), nullptr};
  const int64_t groups = a.cols / a.group_size;
  for (int64_t row = begin; row < end; row += lanes) {
    const int64_t live = std::min(lanes, end - row);
    load_tile(a.weight, a.cols, row, live, 0, a.cols, w.get());
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t first = g * a.group_size;
      TileGrids grids;
      if (!fit_tile(tile, first, a.group_size, a.search, a.search.column_weight + first, grids)) {
        return lower_to(a.first_bad_row, row);
      }
      store_grids(grids, row, live, groups, g, a.scales, a.zeros);
    }
  }
}

}  // namespace qlora::quant::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace qlora::quant {
namespace {

HWY_EXPORT(gptq_tiles);
HWY_EXPORT(search_tiles);

/// Rows that one thread takes at once: a whole number of tiles.
constexpr int64_t kRowsOfTile = 16;

template <class Body>
void for_each_tile(int64_t rows, const Body& body) {
  parallel_for((rows + kRowsOfTile - 1) / kRowsOfTile, 1, [&](int64_t b, int64_t e) {
    body(b * kRowsOfTile, std::min(rows, e * kRowsOfTile));
  });
}

}  // namespace

void cpu::gptq_block(const GptqBlockArgs& a) {
  for_each_tile(a.rows, [&](int64_t b, int64_t e) { HWY_DYNAMIC_DISPATCH(gptq_tiles)(a, b, e); });
}

void cpu::search_grids(const GridSearchArgs& a) {
  for_each_tile(a.rows, [&](int64_t b, int64_t e) { HWY_DYNAMIC_DISPATCH(search_tiles)(a, b, e); });
}

}  // namespace qlora::quant
#endif
