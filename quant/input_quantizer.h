#pragma once

#include <torch/types.h>

namespace qlora::quant {

/// What an engine does to the inputs of a linear before it multiplies them with 8-bit weights.
enum class InputRounding {
  kInt8PerToken,      // scale max|x| / 127.5 of each token, codes -128 to 127 (compressed-tensors)
  kInt8WithOutliers,  // LLM.int8: columns with an |x| >= threshold stay, the rest of each token is
                      // rounded with scale max|x| / 127 (Dettmers et al., arXiv:2208.07339)
  kFp8PerToken,       // scale max|x| / 448 of each token, E4M3
  kFp8Static,         // one scale for all, E4M3; what lies beyond is cut off
  kInt8Static,        // one scale for all, codes -128 to 127; what lies beyond is cut off
};

struct InputQuantizer {
  InputRounding rounding = InputRounding::kInt8PerToken;
  float scale = 1;      // kFp8Static and kInt8Static alone
  float threshold = 0;  // kInt8WithOutliers alone; 0: no outliers
};

/// x rounded to the numbers that the engine multiplies, in the type of x. Computed in f32.
///   x         [T, K] f32, f16 or bf16; not changed; a token of zeros stays zeros
///   Gradient  none: the caller passes it straight through
torch::Tensor round_inputs(const torch::Tensor& x, const InputQuantizer& quantizer);

/// The gradient of x from that of its rounded numbers: it passes straight through, but not where a
/// static scale cuts off (Bengio et al., arXiv:1308.3432).
///   gradient  [T, K], changed in place
void mask_input_gradient(const torch::Tensor& x, const InputQuantizer& quantizer,
                         torch::Tensor& gradient);

/// The greatest |x| over the scale of static inputs: what is not cut off.
float input_reach(InputRounding rounding);

}  // namespace qlora::quant
