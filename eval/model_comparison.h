#pragma once

#include <torch/types.h>

#include <cstdint>
#include <vector>

namespace qlora::eval {

/// What a model says of some positions: its activations after the final norm, and its output
/// projection. The logits [T, V] = hidden · lm_headᵀ are never held.
struct OutputStates {
  torch::Tensor hidden;      // [T, C]
  torch::Tensor lm_head;     // [V, C]
  double logit_softcap = 0;  // a logit z becomes cap·tanh(z / cap); 0: it stays
};

/// Two models on the same tokens, over the positions that have a target.
struct ModelComparison {
  double nll = 0;             // mean negative log likelihood of the second model, in nats
  double perplexity = 0;      // exp(nll)
  double kl_divergence = 0;   // mean KL(reference ‖ other), in nats
  double top1_agreement = 0;  // share of positions where both find the same token most likely
  int64_t tokens = 0;
};

/// Compares in FP32, whatever type the states have: logits of 16-bit products would add their own
/// divergence.
///   targets   [T], kIgnoreTarget where there is none
///   throws    ShapeError where the two do not have T rows and one vocabulary; ValueError where
///             there is no target, or one is outside the vocabulary
///   cost      4 T V C operations; holds two chunks of logits
ModelComparison compare_models(const OutputStates& reference, const OutputStates& other,
                               const std::vector<int32_t>& targets);

}  // namespace qlora::eval
