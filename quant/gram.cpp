#include "quant/gram.h"

#include <ATen/native/CPUBlas.h>
#include <ATen/ops/empty.h>

#include <algorithm>

#include "core/parallel.h"
#include "quant/checks.h"

namespace qlora::quant {
namespace {

using c10::BFloat16;

constexpr int64_t kComposedTile = 512;  // rows of the Gram matrix that one f32 product makes
constexpr int64_t kTile = 64;           // rows and columns that one bf16 product makes
constexpr int64_t kTokens = 256;        // tokens in one bf16 product
constexpr int64_t kTokenStep = 32;      // token counts are rounded up: oneDNN makes code for each

/// Some tokens of x as the products want them: x [T, K] transposed, and in pairs of tokens.
class TokenChunk {
 public:
  explicit TokenChunk(int64_t cols)
      : cols_(cols),
        transposed_(at::empty({cols * kTokens}, torch::kBFloat16)),
        paired_(at::empty({cols * kTokens}, torch::kBFloat16)) {}

  /// Takes over `count` rows of x; the rest of the last step counts as zeros.
  void fill(const BFloat16* x, int64_t row_stride, int64_t count) {
    tokens_ = (count + kTokenStep - 1) / kTokenStep * kTokenStep;
    BFloat16* const transposed = transposed_.mutable_data_ptr<BFloat16>();
    BFloat16* const paired = paired_.mutable_data_ptr<BFloat16>();
    parallel_for(tile_count(), 1, [&](int64_t begin, int64_t end) {
      for (int64_t tile = begin; tile < end; ++tile) {
        const int64_t col = tile * kTile, width = width_of(tile);
        transpose(x + col, row_stride, count, width, transposed + col * tokens_);
        pair(x + col, row_stride, count, width, paired + col * tokens_);
      }
    });
  }

  /// gram += xᵀ·x in one tile.
  void add_tile(int64_t row_tile, int64_t tile, float* gram) const {
    const int64_t row = row_tile * kTile, col = tile * kTile, width = width_of(tile);
    at::native::cpublas::brgemm(width_of(row_tile), width, tokens_, tokens_, width, cols_, true,
                                transposed_.const_data_ptr<BFloat16>() + row * tokens_,
                                paired_.const_data_ptr<BFloat16>() + col * tokens_,
                                gram + row * cols_ + col, true);
  }

  int64_t tile_count() const { return (cols_ + kTile - 1) / kTile; }

 private:
  int64_t width_of(int64_t tile) const { return std::min(kTile, cols_ - tile * kTile); }

  void transpose(const BFloat16* x, int64_t row_stride, int64_t count, int64_t width,
                 BFloat16* out) const {
    for (int64_t first = 0; first < tokens_; first += kTokenStep) {  // stays in the first cache
      const int64_t filled = std::clamp<int64_t>(count - first, 0, kTokenStep);
      for (int64_t col = 0; col < width; ++col) {
        BFloat16* const to = out + col * tokens_ + first;
        for (int64_t t = 0; t < filled; ++t) to[t] = x[(first + t) * row_stride + col];
        std::fill(to + filled, to + kTokenStep, BFloat16(0));
      }
    }
  }

  void pair(const BFloat16* x, int64_t row_stride, int64_t count, int64_t width,
            BFloat16* out) const {
    for (int64_t t = 0; t < tokens_; t += 2, out += 2 * width) {
      for (int64_t col = 0; col < width; ++col) {
        out[2 * col] = t < count ? x[t * row_stride + col] : BFloat16(0);
        out[2 * col + 1] = t + 1 < count ? x[(t + 1) * row_stride + col] : BFloat16(0);
      }
    }
  }

  int64_t cols_;
  int64_t tokens_ = 0;
  torch::Tensor transposed_;  // [K, T]
  torch::Tensor paired_;      // a tile of columns after the other, each [T / 2, width, 2]
};

/// The tiles on the diagonal and right of it, row after row.
struct TileWalk {
  int64_t tiles, row = 0, col = 0;

  TileWalk(int64_t tiles_a_side, int64_t first) : tiles(tiles_a_side) {
    for (; first >= tiles - row; ++row) first -= tiles - row;
    col = row + first;
  }
  void next() {
    if (++col == tiles) col = ++row;
  }
};

void add_gram_bf16(const torch::Tensor& x, const torch::Tensor& gram) {
  TokenChunk chunk(x.size(1));
  float* const sums = gram.mutable_data_ptr<float>();
  const int64_t tiles = chunk.tile_count();
  for (int64_t first = 0; first < x.size(0); first += kTokens) {
    const int64_t count = std::min(kTokens, x.size(0) - first);
    chunk.fill(x.const_data_ptr<BFloat16>() + first * x.stride(0), x.stride(0), count);
    parallel_for(tiles * (tiles + 1) / 2, 1, [&](int64_t begin, int64_t end) {
      TileWalk at(tiles, begin);
      for (int64_t i = begin; i < end; ++i, at.next()) chunk.add_tile(at.row, at.col, sums);
      at::native::cpublas::brgemm_release();
    });
  }
}

void check_shapes(const torch::Tensor& x, const torch::Tensor& gram) {
  const bool fits = x.dim() == 2 && gram.dim() == 2 && gram.size(0) == x.size(1) &&
                    gram.size(1) == x.size(1) && gram.is_contiguous();
  QLORA_CHECK(fits, ShapeError,
              "[quant] inputs have shape {} and their Gram matrix {}, allowed [T, K] and [K, K]",
              shape_text(x), shape_text(gram));
}

}  // namespace

void add_gram_composed(const torch::Tensor& x, const torch::Tensor& gram) {
  check_shapes(x, gram);
  const torch::Tensor wide = x.to(torch::kFloat32);
  const int64_t width = wide.size(1);
  for (int64_t row = 0; row < width; row += kComposedTile) {
    const int64_t rows = std::min(kComposedTile, width - row);
    gram.narrow(0, row, rows)
        .narrow(1, row, width - row)
        .addmm_(wide.narrow(1, row, rows).t(), wide.narrow(1, row, width - row));
  }
}

void add_gram(const torch::Tensor& x, const torch::Tensor& gram) {
  check_shapes(x, gram);
  const bool is_bf16 = x.scalar_type() == torch::kBFloat16 && x.stride(1) == 1;
  if (!is_bf16 || !at::native::cpublas::could_pack(torch::kBFloat16)) {
    return add_gram_composed(x, gram);
  }
  add_gram_bf16(x, gram);
}

}  // namespace qlora::quant
