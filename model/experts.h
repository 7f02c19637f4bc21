#pragma once

#include <torch/types.h>

#include <vector>

#include "io/architecture.h"
#include "lora/lora_linear.h"

namespace qlora::model {

/// One of the MLPs that a router chooses from.
struct ExpertMlp {
  lora::LoraLinear gate_proj, up_proj, down_proj;
};

/// What a mixture computes beside its weights.
struct MixtureOptions {
  int64_t used = 0;         // experts a token
  bool sums_to_one = true;  // their weights are divided by their sum
  io::Activation activation = io::Activation::kSilu;
  torch::ScalarType compute_dtype = torch::kFloat32;
};

/// y = Σ_e p_e·down_e(act(gate_e(x))·up_e(x)) over the `used` experts with the largest
/// p = softmax(x·routerᵀ).
///   x         [T, C] in the compute dtype; router [E, C] f32, frozen; returns [T, C] f32
///   Backward  through the experts and through p to x, and to the experts' adapters; the choice of
///             experts has no gradient. An adapter of an expert that no token chose gets none
///   Numerics  router, softmax and sum FP32
///   Source    Shazeer et al., arXiv:1701.06538, eq. 1; Jiang et al., Mixtral, arXiv:2401.04088,
///   §2.1
torch::Tensor mixture_of_experts(const torch::Tensor& x, const torch::Tensor& router,
                                 const std::vector<ExpertMlp>& experts,
                                 const MixtureOptions& options, const lora::DropoutKey& dropout);

}  // namespace qlora::model
