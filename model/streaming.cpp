#include "model/streaming.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>

#include "core/clock.h"
#include "core/progress.h"
#include "model/rms_norm.h"
#include "model/token_pass.h"

namespace qlora::model {

namespace {

constexpr double kQuietSeconds = 2;

struct Walker {
  PassLayout layout;
  torch::Tensor h;  // [T rounded up, C] f32
  int64_t tokens;   // without what was added
};

}  // namespace

torch::Tensor streamed_hidden_states(const BlockLoader& loader, const BlockSource& blocks,
                                     const std::vector<TokenBatch>& batches, RunLog& log,
                                     const std::string& label, KvRounding kv) {
  const at::NoGradGuard no_graph;
  const RopeTables rope(loader.config());
  std::vector<Walker> walkers;
  {
    const torch::Tensor embedding = loader.embedding();
    const double scale = loader.config().arch.embedding_scale;
    for (const TokenBatch& batch : batches) {
      check_segments(batch);
      const TokenBatch rounded = rounded_up(batch);
      walkers.push_back({pass_layout(rounded, rope, loader.compute_dtype()),
                         embed_tokens(embedding, rounded.tokens, scale),
                         static_cast<int64_t>(batch.tokens.size())});
      walkers.back().layout.kv_rounding = kv;
    }
  }
  const Stopwatch watch;
  for (int64_t i = 0; i < loader.block_count(); ++i) {
    const DecoderBlock block = blocks(i);
    for (Walker& walker : walkers) walker.h = block.forward(walker.h, walker.layout);
    const double seconds = watch.seconds();
    const auto left = static_cast<double>(loader.block_count() - i - 1);
    if (seconds < kQuietSeconds) continue;
    log.live(left == 0
                 ? ""
                 : fmt::format("{}: block {} of {} · {} left", label, i + 1, loader.block_count(),
                               duration_text(seconds / static_cast<double>(i + 1) * left)));
  }
  const torch::Tensor norm = loader.final_norm();
  std::vector<torch::Tensor> states;
  for (const Walker& walker : walkers) {
    states.push_back(rms_norm(walker.h.narrow(0, 0, walker.tokens), norm,
                              loader.config().rms_norm_eps, loader.compute_dtype()));
  }
  return at::cat(states);
}

}  // namespace qlora::model
