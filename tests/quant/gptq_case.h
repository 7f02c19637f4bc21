#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "quant/affine_math.h"
#include "quant/gptq_backend.h"
#include "tests/quant/cpu_case.h"

// A block of columns and what GPTQ makes of it, from the definition in gptq_backend.h.
namespace qlora::quant::gptq_case {

/// U upper triangular with a positive diagonal, as the inverse of a Hessian has.
inline std::vector<float> random_factor(int64_t cols, uint32_t seed) {
  auto u = testing::normal_values(cols * cols, seed, 0.3f);
  for (int64_t i = 0; i < cols; ++i) {
    for (int64_t j = 0; j < i; ++j) u[i * cols + j] = 0;
    u[i * cols + i] = 0.5f + std::abs(u[i * cols + i]);
  }
  return u;
}

struct Problem {
  int64_t rows, cols, group_size;
  std::vector<float> weight, factor, column_weight;
  std::vector<int32_t> column_group;
  GridSearch search;
  bool fits = true;

  int64_t groups() const { return cols / group_size; }
};

struct Result {
  std::vector<float> scales, errors;
  std::vector<uint8_t> zeros, codes;
  int64_t bad_row;

  explicit Result(const Problem& p)
      : scales(p.rows * p.groups(), 0.5f),
        zeros(p.rows * p.groups(), 3),
        codes(p.rows * p.cols, 0xEE),
        bad_row(p.rows) {}
};

inline Problem make_problem(int64_t rows, int64_t cols, int64_t group_size,
                            const AffineOptions& affine, ScaleSearch kind) {
  Problem p{rows,
            cols,
            group_size,
            testing::normal_values(rows * cols, 21),
            random_factor(cols, 22),
            testing::normal_values(cols, 23, 1.0f),
            std::vector<int32_t>(cols),
            {.affine = affine, .kind = kind, .steps = 7, .least = 0.4}};
  for (float& w : p.column_weight) w = std::abs(w) + 0.01f;
  // Groups in another order than their columns: the last one first.
  for (int64_t k = 0; k < cols; ++k) {
    p.column_group[k] = static_cast<int32_t>((cols - 1 - k) / group_size);
  }
  return p;
}

/// Error of a row's columns [k, k + G) on a grid, from the definition.
inline float error_on(const Problem& p, std::vector<float> w, int64_t k, AffineGrid grid) {
  float sum = 0;
  for (int64_t i = k; i < k + p.group_size; ++i) {
    float e = w[i] - affine_value(affine_code(w[i], grid, p.search.affine.bits), grid);
    if (p.search.kind == ScaleSearch::kMse) {
      sum += e * e * p.column_weight[i];
      continue;
    }
    e /= p.factor[i * p.cols + i];
    sum += e * e;
    for (int64_t j = i + 1; j < k + p.group_size; ++j) w[j] -= e * p.factor[i * p.cols + j];
  }
  return sum;
}

inline AffineGrid best_grid(const Problem& p, const std::vector<float>& w, int64_t k) {
  const auto [low, high] = std::minmax_element(w.begin() + k, w.begin() + k + p.group_size);
  AffineGrid best;
  float least = std::numeric_limits<float>::infinity();
  const int64_t steps = p.search.kind == ScaleSearch::kMinMax ? 1 : p.search.steps;
  for (int64_t step = 0; step < steps; ++step) {
    const float part = kept_range(step, steps, p.search.least);
    const AffineGrid grid = affine_grid(*low * part, *high * part, p.search.affine);
    const float error = error_on(p, w, k, grid);
    if (error < least) {
      least = error;
      best = grid;
    }
  }
  return best;
}

/// One row after the other, one column after the other.
inline Result defined(const Problem& p, int64_t begin, int64_t end) {
  Result r(p);
  r.errors.assign(p.rows * (end - begin), -1);
  for (int64_t row = 0; row < p.rows; ++row) {
    std::vector<float> w(p.weight.begin() + row * p.cols, p.weight.begin() + (row + 1) * p.cols);
    for (int64_t k = begin; k < end; ++k) {
      const int64_t at = row * p.groups() + p.column_group[k];
      if (p.fits && k % p.group_size == 0) {
        const AffineGrid grid = best_grid(p, w, k);
        r.scales[at] = grid.scale;
        r.zeros[at] = static_cast<uint8_t>(grid.zero);
      }
      const AffineGrid grid{r.scales[at], r.zeros[at]};
      const uint8_t code = affine_code(w[k], grid, p.search.affine.bits);
      const float e = (w[k] - affine_value(code, grid)) / p.factor[k * p.cols + k];
      for (int64_t j = k + 1; j < end; ++j) w[j] -= e * p.factor[k * p.cols + j];
      r.codes[row * p.cols + k] = code;
      r.errors[row * (end - begin) + k - begin] = e;
    }
  }
  return r;
}

inline void expect_equal(const Result& got, const Result& want) {
  ASSERT_EQ(got.codes, want.codes);
  ASSERT_EQ(got.scales, want.scales);
  ASSERT_EQ(got.zeros, want.zeros);
  ASSERT_EQ(got.errors, want.errors);
  ASSERT_EQ(got.bad_row, want.bad_row);
}

}  // namespace qlora::quant::gptq_case
