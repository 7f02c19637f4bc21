#pragma once

#include <cstdint>
#include <optional>

#include "model/plan_shape.h"

namespace qlora::model {

/// What of a run lies on the disk beside the model itself.
struct DiskShape {
  bool keeps_cache = false;      // quantization.cache_dir
  bool saves = true;             // save_strategy is not "no"
  std::optional<int64_t> saved;  // checkpoints that the run writes; unset: not known yet
  int64_t save_total_limit = 0;  // 0: all stay
  bool keeps_best = false;       // load_best_model_at_end: the best one stays beside the limit
  std::optional<int64_t> export_bits;
};

struct DiskPlan {
  int64_t cache = 0;                        // the quantized base, for the next start
  int64_t checkpoint = 0;                   // one: adapter, masters, optimizer states
  std::optional<int64_t> most_checkpoints;  // at the same time; unset: grows with the run
  int64_t adapter = 0;                      // the result
  int64_t exported = 0;                     // the quantized model, if the run ends with an export

  int64_t total() const;  // with one checkpoint where their number is not known
};

/// Bytes on disk. A checkpoint is written before the oldest is deleted, so that one more than
/// save_total_limit is there for a moment.
///   throws    as planned_linears
DiskPlan plan_disk(const PlanShape& shape, const DiskShape& disk);

/// A model whose matrices have `bits` bits in groups of `group` columns, each group with an FP16
/// scale and a zero point of `bits` bits, and the rest 16 bits.
int64_t exported_bytes(const io::HfConfig& config, int64_t bits, int64_t group);

}  // namespace qlora::model
