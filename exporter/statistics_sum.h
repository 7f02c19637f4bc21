#pragma once

#include <torch/types.h>

#include <cstdint>

#include "quant/linear_statistics.h"

namespace qlora::exporter {

/// Gathers quant::LinearStatistics batch by batch.
///   Numerics  exact products of 16-bit inputs, summed in FP32 within a batch and over batches
class StatisticsSum {
 public:
  explicit StatisticsSum(int64_t width);

  /// x [T, K] f32, f16 or bf16
  ///   cost      K² T multiplications: the upper triangle in tiles
  void add(const torch::Tensor& x);

  /// The sums, the Gram matrix made symmetric.
  ///   throws    ValueError where an activation was not finite
  quant::LinearStatistics result(const std::string& where);

 private:
  quant::LinearStatistics sum_;
};

}  // namespace qlora::exporter
