#pragma once

#include <torch/types.h>

#include <cstdint>
#include <vector>

#include "io/hf_config.h"

namespace qlora::model {

/// Cosines and sines of the positions of one pass.
struct RopeAngles {
  torch::Tensor cos;  // [T, D/2] f32
  torch::Tensor sin;  // [T, D/2] f32
};

/// Rotation frequencies of a model: plain, linear, dynamic, llama3 or yarn.
///   Source    Su et al., RoFormer, arXiv:2104.09864; Peng et al., YaRN, arXiv:2309.00071, §3;
///             scalings as transformers' modeling_rope_utils computes them
class RopeTable {
 public:
  RopeTable() = default;
  explicit RopeTable(const io::HfConfig& config);

  /// Angles for positions that count from 0 in each segment.
  RopeAngles angles(const std::vector<int32_t>& segment_starts) const;
  /// Angles for `count` positions from `first`, for generation.
  RopeAngles angles_from(int64_t first, int64_t count) const;

 private:
  /// Inverse frequencies for a sequence of `length` tokens (dynamic scaling depends on it).
  std::vector<double> inverse_frequencies(int64_t length) const;

  /// cos and sin [count, D/2] of positions from `first` in a sequence of `length` tokens.
  void fill(int64_t first, int64_t count, int64_t length, float* cos, float* sin) const;

  io::RopeParameters parameters_;
  int64_t head_dim_ = 0;
  int64_t max_positions_ = 0;
  double attention_factor_ = 1;  // multiplies cos and sin
};

/// Rotates the halves of every head: (x1, x2) -> (x1·cos − x2·sin, x2·cos + x1·sin).
///   x         [T, heads·D] f32, f16 or bf16; angles of the same T
///   Backward  the rotation by the negative angle
torch::Tensor apply_rope(const torch::Tensor& x, const RopeAngles& angles, int64_t head_dim);

}  // namespace qlora::model
