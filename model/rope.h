#pragma once

#include <torch/types.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "io/hf_config.h"

namespace qlora::model {

/// Cosines and sines of the positions of one pass.
struct RopeAngles {
  torch::Tensor cos;  // [T, rotary dim / 2] f32
  torch::Tensor sin;  // [T, rotary dim / 2] f32
};

/// Rotation frequencies: plain, linear, dynamic, llama3, yarn or longrope.
///   Source    Su et al., RoFormer, arXiv:2104.09864; Peng et al., YaRN, arXiv:2309.00071, §3;
///             Ding et al., LongRoPE, arXiv:2402.13753; scalings as transformers'
///             modeling_rope_utils computes them
class RopeTable {
 public:
  RopeTable() = default;
  RopeTable(const io::RopeParameters& parameters, int64_t head_dim, int64_t max_positions);

  /// Angles for positions that count from 0 in each segment.
  RopeAngles angles(const std::vector<int32_t>& segment_starts) const;
  /// Angles for `count` positions from `first`, for generation.
  ///   capacity  tokens that the sequence may grow to: longrope chooses its factors by it, so that
  ///             keys in the cache stay as they are
  RopeAngles angles_from(int64_t first, int64_t count, int64_t capacity) const;

 private:
  /// Inverse frequencies for a sequence of `length` tokens (dynamic and longrope depend on it).
  std::vector<double> inverse_frequencies(int64_t length) const;

  /// cos and sin [count, rotary dim / 2] of positions from `first` in a sequence of `length`.
  void fill(int64_t first, int64_t count, int64_t length, float* cos, float* sin) const;
  bool depends_on_length() const;

  io::RopeParameters parameters_;
  int64_t rotary_dim_ = 0;
  int64_t max_positions_ = 0;
  double attention_factor_ = 1;  // multiplies cos and sin
};

/// The angles that the blocks of a pass choose from.
struct BlockAngles {
  RopeAngles global;
  RopeAngles local;  // undefined where no block asks for it
};

/// The tables of a model: one, or one more for its local blocks.
class RopeTables {
 public:
  RopeTables() = default;
  explicit RopeTables(const io::HfConfig& config);

  BlockAngles angles(const std::vector<int32_t>& segment_starts) const;
  BlockAngles angles_from(int64_t first, int64_t count, int64_t capacity) const;

 private:
  RopeTable global_;
  std::optional<RopeTable> local_;
};

/// Rotates the halves of every head, or of its first numbers where the angles are fewer than D/2:
/// (x1, x2) -> (x1·cos − x2·sin, x2·cos + x1·sin).
///   x         [T, heads·D] f32, f16 or bf16; angles of the same T
///   Backward  the rotation by the negative angle
torch::Tensor apply_rope(const torch::Tensor& x, const RopeAngles& angles, int64_t head_dim);

}  // namespace qlora::model
