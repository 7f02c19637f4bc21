#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/run_log.h"
#include "core/token_batch.h"
#include "eval/model_comparison.h"
#include "exporter/report.h"
#include "model/streaming.h"

namespace qlora::exporter {

/// Measures models on the same held-out tokens, all against one reference. Models are walked block
/// by block, so that none is ever whole in memory.
class StageMeter {
 public:
  /// segments  with targets; joined into batches
  /// throws    ValueError where there is no target
  StageMeter(const std::vector<TokenBatch>& segments, RunLog& log);

  /// Runs the held-out tokens through a model. The numbers against the reference are filled in by
  /// `compare`.
  struct Measured {
    StageResult stage;
    eval::OutputStates states;
  };
  ///   stage     name, kind and bytes are the caller's
  ///   kv        of the cache that the model was trained for
  ///   throws    Interrupted
  Measured run(StageResult stage, const model::BlockLoader& loader,
               const model::BlockSource& blocks, model::KvRounding kv = model::KvRounding::kNone);

  /// All the models that follow are compared with this one.
  void set_reference(const eval::OutputStates& states) { reference_ = states; }
  /// throws    ValueError where the model's numbers are not finite
  StageResult compare(const Measured& measured) const;

  int64_t tokens() const { return tokens_; }

 private:
  std::vector<TokenBatch> batches_;
  std::vector<int32_t> targets_;
  int64_t tokens_ = 0;
  std::optional<eval::OutputStates> reference_;
  RunLog& log_;
};

}  // namespace qlora::exporter
