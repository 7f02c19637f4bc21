#include "model/disk_plan.h"

#include <algorithm>

namespace qlora::model {

int64_t DiskPlan::total() const {
  return cache + checkpoint * most_checkpoints.value_or(1) + adapter + exported;
}

int64_t exported_bytes(const io::HfConfig& config, int64_t bits, int64_t group) {
  PlanShape frozen{.config = config};
  frozen.lora.enabled = false;
  int64_t bit_count = 0, weights = 0;
  for (const PlannedLinear& l : planned_linears(frozen)) {
    const int64_t count = l.rows * l.cols;
    const int64_t groups = bits < 16 ? l.rows * ((l.cols + group - 1) / group) : 0;
    bit_count += count * bits + groups * (16 + bits);
    weights += count;
  }
  return (bit_count + 7) / 8 + 2 * (base_parameters(config) - weights);
}

DiskPlan plan_disk(const PlanShape& shape, const DiskShape& disk) {
  constexpr int64_t kExportGroup = 128;
  const auto linears = planned_linears(shape);
  const bool is_fp32 = shape.lora.adapter_dtype == lora::AdapterDtype::kFloat32;
  DiskPlan plan;
  plan.adapter = adapter_parameters(linears) * (is_fp32 ? 4 : 2);
  if (disk.keeps_cache && shape.load_in_4bit && !shape.quantized) {
    plan.cache = frozen_matrix_bytes(shape, linears);
  }
  if (disk.saves) {
    plan.checkpoint =
        plan.adapter + 4 * trained_parameters(shape, linears) + optimizer_bytes(shape, linears);
    const int64_t limit = disk.save_total_limit + 1 + (disk.keeps_best ? 1 : 0);
    if (disk.saved && disk.save_total_limit > 0) {
      plan.most_checkpoints = std::min(*disk.saved, limit);
    } else if (disk.save_total_limit > 0) {
      plan.most_checkpoints = limit;
    } else {
      plan.most_checkpoints = disk.saved;
    }
  } else {
    plan.most_checkpoints = 0;
  }
  if (disk.export_bits) {
    plan.exported = exported_bytes(shape.config, *disk.export_bits, kExportGroup);
  }
  return plan;
}

}  // namespace qlora::model
