#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "configs/run_config.h"
#include "data/example_builder.h"
#include "io/hf_config.h"
#include "io/quantization_config.h"
#include "model/disk_plan.h"
#include "model/plan_shape.h"

namespace qlora::cli {

/// What a model says of itself before a weight is read.
struct ModelDescription {
  io::HfConfig config;
  std::optional<io::QuantizedForm> quantized;
};

/// From config.json of a folder, whose weights may be absent, or from a GGUF file's header.
///   throws    IoError, FormatError
ModelDescription describe_model(const std::string& path);

/// The run's part of a plan; without data every row of a micro-batch has max_length tokens.
model::PlanShape shape_of(const configs::RunConfig& config, const ModelDescription& model);

/// Puts the micro-batches that the data make in place of that: the largest of the first 4,096
/// steps, drawn as the run draws them.
void measure_batches(const configs::RunConfig& config, const data::TrainingData& data,
                     model::PlanShape& shape);

/// What the run writes.
///   steps_per_epoch   unset: the data are not known, and with them the number of checkpoints
model::DiskShape disk_shape_of(const configs::RunConfig& config,
                               std::optional<int64_t> steps_per_epoch);

}  // namespace qlora::cli
