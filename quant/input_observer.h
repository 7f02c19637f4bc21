#pragma once

#include <torch/types.h>

#include <cstdint>

#include "quant/affine_options.h"
#include "quant/input_quantizer.h"
#include "quant/observer_options.h"

namespace qlora::quant {

/// Measures the inputs of one linear while it is trained. What was seen counts from commit() on, so
/// that all passes of a step, the recomputed ones too, round alike.
///   Numerics  f32 counts in a histogram of 2048 bins; the same on every thread count
class InputObserver {
 public:
  /// rounding    kInt8Static or kFp8Static
  InputObserver(const ObserverOptions& options, InputRounding rounding, ScaleType scale_type);

  /// x [T, K], any float type; counts at the next commit()
  void observe(const torch::Tensor& x);
  void commit();
  /// False until the first commit(): inputs are then not rounded.
  bool is_ready() const;
  /// A number of scale_type, positive.
  float scale() const;
  /// Everything that commit() changes, f32, sharing memory: for checkpoints.
  torch::Tensor state() const { return state_; }

  static constexpr int64_t kBins = 2048;

 private:
  float bound() const;        // the |x| that becomes the largest code
  float least_error() const;  // kMse
  void grow(float most);      // until the histogram reaches it

  ObserverOptions options_;
  InputRounding rounding_;
  ScaleType scale_type_;
  torch::Tensor state_;    // [3 + kBins]: bound of kMinMax or kMovingAverage, range, scale, counts
  torch::Tensor pending_;  // [kBins] counts of this step over the range of state_
  float pending_most_ = 0;
  bool has_pending_ = false;
};

}  // namespace qlora::quant
