#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "cli/plan.h"
#include "core/fields.h"
#include "model/disk_plan.h"
#include "model/inference_plan.h"

namespace qlora::cli {

/// A run's memory and disk, with the device it is to fit on.
struct RunPlan {
  std::string model;
  model::PlanShape shape;
  bool has_data = false;  // the micro-batches are those of the data, not of max_length
  model::DiskPlan disk;
  std::optional<int64_t> device_bytes;
};

Json run_plan_json(const RunPlan& plan);
/// A table with a bar for each part, whether it fits, what helps most, and the disk.
std::string run_plan_text(const RunPlan& plan);

/// What serving a model takes.
struct ServingPlan {
  std::string model;
  model::InferenceShape shape;
  std::vector<model::SchemeMemory> schemes;
  std::optional<int64_t> device_bytes;
  std::optional<model::Recommendation> recommendation;
};

Json serving_plan_json(const ServingPlan& plan);
std::string serving_plan_text(const ServingPlan& plan);

}  // namespace qlora::cli
