#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "eval/generate_options.h"

namespace qlora::eval {

struct Candidate {
  int32_t token = 0;
  double probability = 0;
};

/// The distribution that the next token is drawn from: most likely first, equal ones by id.
///   logits    [V], -inf for a token that may not come
///   history   ids of the prompt and the answer so far, for the repetition penalty
///   returns   at least one candidate, probabilities above 0 that sum to 1. temperature 0 gives
///             the most likely token alone (of equals the lowest id)
///   top_k     exactly k: of equal logits at the border the lower ids stay
///   top_p     the shortest beginning of the list that holds the share top_p, at least one token
///   throws    ValueError if there is no logit, one is NaN or +inf, or all are -inf; or if an id of
///             history is no index of logits
///   Source    repetition penalty Keskar et al., CTRL, arXiv:1909.05858, §4.1; top_p Holtzman et
///             al., arXiv:1904.09751, §3.1. Order and meaning as in transformers
std::vector<Candidate> next_token_distribution(std::span<const float> logits,
                                               const SamplingOptions& options,
                                               std::span<const int32_t> history = {});

/// The candidate at which the running sum of probabilities passes `uniform`.
///   uniform   in [0, 1)
///   Requires  at least one candidate
int32_t draw_token(std::span<const Candidate> candidates, double uniform);

}  // namespace qlora::eval
