#pragma once

#include <cstdint>
#include <string>

#include "configs/run_config.h"
#include "core/fields.h"
#include "core/run_log.h"
#include "data/example_builder.h"
#include "model/memory_plan.h"
#include "model/plan_shape.h"

namespace qlora::cli {

/// What a run is going to do, known before a weight is read.
struct Plan {
  Json facts;                     // for --dry-run --json
  std::string trainable_summary;  // as PEFT prints it
  model::PlanShape shape;
  model::MemoryPlan memory;  // at the peak
};

/// Opens the checkpoint's headers (every tensor is checked for shape and type), selects the
/// adapters' linears, counts steps, plans memory.
///   throws    what the readers throw; ConfigError for target_modules that match nothing
Plan make_plan(const configs::RunConfig& config, const data::TrainingData& data);

/// The plan in a few lines.
std::string plan_text(const Plan& plan);

/// The same as notices, with a warning where the memory will hardly do, and what helps most.
void show_plan(const Plan& plan, RunLog& log);

}  // namespace qlora::cli
