#pragma once

#include <torch/types.h>

#include <cstdint>
#include <vector>

namespace qlora::model {

/// Sum over targets of −log softmax(h·Eᵀ)[target]: output projection and cross-entropy in chunks
/// of tokens, so that [T, V] is never held. With a softcap a logit z becomes cap·tanh(z / cap).
///   hidden    [T, C] in the compute dtype, after the final norm
///   lm_head   [V, C] in the same dtype, frozen
///   targets   [T], kIgnoreTarget where there is none: such positions cost nothing
///   returns   scalar f32; backward gives dhidden [T, C] and never a gradient of lm_head
///   Cost      two products of the targets' rows with lm_head, both in the forward: the gradient is
///             ready before backward asks, so that no logit is computed twice
torch::Tensor target_loss_sum(const torch::Tensor& hidden, const torch::Tensor& lm_head,
                              const std::vector<int32_t>& targets, double softcap = 0);

/// The same, one number a position, 0 where there is no target; no graph.  [T] f32
torch::Tensor target_losses(const torch::Tensor& hidden, const torch::Tensor& lm_head,
                            const std::vector<int32_t>& targets, double softcap = 0);

/// All logits of some rows, for tests and for generation; no graph.  [T, V] f32
torch::Tensor all_logits(const torch::Tensor& hidden, const torch::Tensor& lm_head, double softcap);

}  // namespace qlora::model
