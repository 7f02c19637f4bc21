#include "eval/perplexity.h"

#include <ATen/ops/sum.h>

#include <cmath>

#include "core/clock.h"
#include "core/error.h"
#include "core/progress.h"

namespace qlora::eval {
namespace {

constexpr double kQuietSeconds = 2;  // shorter evaluations show no progress

std::string progress_line(int64_t done, int64_t all, double nll_sum, double seconds) {
  const double left = seconds * static_cast<double>(all - done) / static_cast<double>(done);
  return fmt::format("evaluating {}/{} tokens · nll {:.4f} · {} tok/s · {} left", done, all,
                     nll_sum / static_cast<double>(done),
                     rate_text(static_cast<double>(done) / seconds), duration_text(left));
}

}  // namespace

PerplexityResult perplexity(model::Decoder& model, const std::vector<TokenBatch>& batches,
                            RunLog& log) {
  int64_t targets = 0;
  for (const TokenBatch& batch : batches) targets += batch.target_tokens();
  QLORA_CHECK(targets > 0, ValueError, "[perplexity] none of the {} batches has a token to predict",
              batches.size());

  const Stopwatch watch;
  double nll_sum = 0;
  int64_t done = 0;
  for (const TokenBatch& batch : batches) {
    nll_sum += at::sum(model.target_nll(batch), torch::kFloat64).item<double>();
    done += batch.target_tokens();
    const double seconds = watch.seconds();
    if (seconds > kQuietSeconds && done > 0 && done < targets) {
      log.live(progress_line(done, targets, nll_sum, seconds));
    }
  }
  if (watch.seconds() > kQuietSeconds) log.live("");
  const double nll = nll_sum / static_cast<double>(targets);
  return {.nll = nll,
          .perplexity = std::exp(nll),
          .tokens = targets,
          .seconds = watch.seconds(),
          .protocol = {}};
}

PerplexityResult perplexity(model::Decoder& model, const Protocol& protocol, RunLog& log,
                            int64_t token_budget) {
  PerplexityResult result = perplexity(model, group_segments(protocol.segments, token_budget), log);
  result.protocol = protocol.description;
  return result;
}

}  // namespace qlora::eval
