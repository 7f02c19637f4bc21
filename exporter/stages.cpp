#include "exporter/stages.h"

#include <cmath>
#include <utility>

#include "core/clock.h"
#include "core/error.h"
#include "core/memory.h"
#include "eval/perplexity.h"
#include "eval/protocol.h"
#include "exporter/interrupted.h"

namespace qlora::exporter {

StageMeter::StageMeter(const std::vector<TokenBatch>& segments, RunLog& log)
    : batches_(eval::group_segments(segments, eval::kEvaluationBatchTokens)), log_(log) {
  for (const TokenBatch& batch : batches_) {
    targets_.insert(targets_.end(), batch.targets.begin(), batch.targets.end());
    tokens_ += batch.target_tokens();
  }
  QLORA_CHECK(tokens_ > 0, ValueError,
              "[export] none of the {} held-out sequences has a token to predict; give others with "
              "--eval-dataset-name, or --set export.evaluate=false",
              segments.size());
}

StageMeter::Measured StageMeter::run(StageResult stage, const model::BlockLoader& loader,
                                     const model::BlockSource& blocks, model::KvRounding kv) {
  reset_peak_rss();
  const Stopwatch watch;
  Measured measured{.stage = std::move(stage), .states = {}};
  const auto interruptible = [&](int64_t i) {
    check_stop_request();
    return blocks(i);
  };
  measured.states.hidden = model::streamed_hidden_states(loader, interruptible, batches_, log_,
                                                         "measuring " + measured.stage.name, kv);
  measured.stage.tokens_per_second = static_cast<double>(targets_.size()) / watch.seconds();
  measured.states.lm_head = loader.lm_head(loader.embedding());
  measured.states.logit_softcap = loader.config().arch.logit_softcap;
  measured.stage.peak_memory_bytes = peak_rss_bytes();
  return measured;
}

StageResult StageMeter::compare(const Measured& measured) const {
  const eval::ModelComparison comparison =
      eval::compare_models(reference_ ? *reference_ : measured.states, measured.states, targets_);
  QLORA_CHECK(std::isfinite(comparison.nll) && std::isfinite(comparison.kl_divergence), ValueError,
              "[export] the model '{}' has a mean negative log likelihood of {} on the held-out "
              "tokens; the compute type overflows or the weights are damaged: try --compute-dtype "
              "fp32",
              measured.stage.name, comparison.nll);
  StageResult stage = measured.stage;
  stage.perplexity = comparison.perplexity;
  stage.kl_divergence = comparison.kl_divergence;
  stage.top1_agreement = comparison.top1_agreement;
  return stage;
}

}  // namespace qlora::exporter
