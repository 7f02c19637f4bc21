#pragma once

#include <cstdint>

#include "core/constraint.h"

namespace qlora::eval {

/// How the next token is chosen from the logits. The parts act in the order of the members.
struct SamplingOptions {
  double repetition_penalty = 1;  // above 1: tokens seen before become less likely
  double temperature = 0;         // logits are divided by it; 0: always the most likely token
  int64_t top_k = 0;              // keep the k most likely tokens; 0: all
  double top_p = 1;               // then keep the fewest that hold this share of the probability
};

/// Section `generation`: how an answer is written.
struct GenerateOptions {
  int64_t max_new_tokens = 128;  // without an end-of-text token the answer ends here
  SamplingOptions sampling;
  uint64_t seed = 0;  // equal seeds give equal answers
};

template <class V>
void fields(V& v, SamplingOptions& o) {
  v("repetition_penalty", o.repetition_penalty, in_range(0.01, 100),
    "above 1: tokens seen before, the prompt's too, become less likely");
  v("temperature", o.temperature, in_range(0, 100),
    "logits are divided by it; 0: greedy, always the most likely token");
  v("top_k", o.top_k, non_negative(), "draw from the k most likely tokens; 0: all");
  v("top_p", o.top_p, in_range(0, 1),
    "draw from the fewest tokens that hold this share of the probability; 1: all");
}

template <class V>
void fields(V& v, GenerateOptions& o) {
  v("max_new_tokens", o.max_new_tokens, in_range(1, 1 << 24), "longest answer in tokens");
  v.inline_section(o.sampling);
  v("seed", o.seed, any_value(), "equal seeds give equal answers");
}

}  // namespace qlora::eval
