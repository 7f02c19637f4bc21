#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/run_log.h"
#include "core/token_batch.h"
#include "eval/protocol.h"
#include "model/decoder.h"

namespace qlora::eval {

struct PerplexityResult {
  double nll = 0;         // mean negative log likelihood of a predicted token, in nats
  double perplexity = 0;  // exp(nll)
  int64_t tokens = 0;     // predicted tokens
  double seconds = 0;     // of the forward passes
  std::string protocol;   // what was measured; empty where the caller made the batches
};

/// Tokens of one forward pass, where the segments leave a choice: enough work for two cores, and
/// small against the weights.
inline constexpr int64_t kEvaluationBatchTokens = 2048;

/// Mean negative log likelihood of all targets of all batches, summed in double.
///   log       gets a live line with the time left once 2 seconds have passed
///   returns   nll NaN or inf where the model's numbers are: the caller judges
///   throws    ValueError if there is no target
PerplexityResult perplexity(model::Decoder& model, const std::vector<TokenBatch>& batches,
                            RunLog& log);

/// The same for a protocol, several segments at a time.
PerplexityResult perplexity(model::Decoder& model, const Protocol& protocol, RunLog& log,
                            int64_t token_budget = kEvaluationBatchTokens);

}  // namespace qlora::eval
