#include "cli/run_shape.h"

#include <algorithm>
#include <filesystem>
#include <set>

#include "data/batches.h"
#include "exporter/preflight.h"
#include "io/checkpoint.h"
#include "model/device_choice.h"
#include "model/load.h"
#include "trainer/train.h"

namespace qlora::cli {
namespace {

constexpr int64_t kMeasuredSteps = 4096;

model::MicroBatch measure(const TokenBatch& batch) {
  const auto& starts = batch.segment_starts;
  model::MicroBatch shape{.rows = static_cast<int64_t>(starts.size()) - 1,
                          .tokens = static_cast<int64_t>(batch.tokens.size()),
                          .target_tokens = batch.target_tokens()};
  for (size_t s = 0; s + 1 < starts.size(); ++s) {
    shape.longest_row = std::max<int64_t>(shape.longest_row, starts[s + 1] - starts[s]);
  }
  return shape;
}

/// Each number by itself: no micro-batch of the run has more.
void widen(model::MicroBatch& largest, const model::MicroBatch& other) {
  largest.rows = std::max(largest.rows, other.rows);
  largest.tokens = std::max(largest.tokens, other.tokens);
  largest.longest_row = std::max(largest.longest_row, other.longest_row);
  largest.target_tokens = std::max(largest.target_tokens, other.target_tokens);
}

bool evaluates(const configs::RunConfig& config) {
  const trainer::EvaluateOptions& evaluate = config.training.evaluate;
  return evaluate.strategy != trainer::Strategy::kNo || evaluate.on_start;
}

model::MicroBatch full_rows(int64_t rows, int64_t length) {
  return {
      .rows = rows, .tokens = rows * length, .longest_row = length, .target_tokens = rows * length};
}

int64_t compute_bytes(const configs::RunConfig& config) {
  const bool is_cuda = model::may_be_cuda(config.device);
  return model::resolve_compute_dtype(config.compute_dtype, is_cuda) == torch::kFloat32 ? 4 : 2;
}

}  // namespace

ModelDescription describe_model(const std::string& path) {
  const std::filesystem::path folder(path);
  if (!std::filesystem::exists(folder / "config.json")) {
    return {.config = io::Checkpoint(folder).config()};
  }
  ModelDescription model{.config = io::read_hf_config(folder / "config.json")};
  const auto quantization = io::find_quantization_config(folder, model.config.quantization_config);
  if (quantization) model.quantized = quantization->common_form();
  return model;
}

model::PlanShape shape_of(const configs::RunConfig& config, const ModelDescription& model) {
  const trainer::TrainOptions& training = config.training;
  const bool is_32bit = training.optimizer.kind == trainer::OptimizerKind::kAdamW32bit;
  model::PlanShape shape{
      .config = model.config,
      .quantized = model.quantized,
      .load_in_4bit = config.quantization.load_in_4bit,
      .four_bit = config.quantization.four_bit,
      .lora = config.lora,
      .compute_bytes = compute_bytes(config),
      .gradient_checkpointing = training.gradient_checkpointing,
      .activation_offloading = training.activation_offloading,
      .states = is_32bit ? model::OptimizerStates::k32bit : model::OptimizerStates::k8bit,
      .device =
          model::may_be_cuda(config.device) ? model::PlanDevice::kCuda : model::PlanDevice::kCpu};
  if (config.qat.is_on() && config.qat.holds_grids()) {
    for (const auto& module : exporter::preflight(model.config, config.exporting.grid).modules) {
      if (module.is_quantized()) shape.held_groups.push_back(module.rows * module.groups());
    }
    shape.learns_scales = config.qat.learns_scales();
  }
  const int64_t length = config.data.example.max_length;
  shape.train = full_rows(training.batching.per_device_train_batch_size, length);
  if (evaluates(config)) shape.evaluation = full_rows(training.evaluate.batch_size, length);
  return shape;
}

void measure_batches(const configs::RunConfig& config, const data::TrainingData& data,
                     model::PlanShape& shape) {
  data::Batches batches(data.train, config.training.batching, config.training.seed);
  const int64_t steps = trainer::total_steps(config.training, batches.steps_per_epoch());
  shape.train = {.rows = 0};
  std::set<size_t> sizes;
  for (int64_t step = 0; step < std::min(steps, kMeasuredSteps); ++step) {
    for (const TokenBatch& micro : batches.next().micro_batches) {
      widen(shape.train, measure(micro));
      sizes.insert(micro.tokens.size());
    }
  }
  shape.uneven_batches = sizes.size() > 1;
  shape.evaluation = {};
  if (!evaluates(config) || !data.eval) return;
  for (const TokenBatch& batch :
       data::evaluation_batches(*data.eval, config.training.evaluate.batch_size)) {
    widen(shape.evaluation, measure(batch));
  }
}

model::DiskShape disk_shape_of(const configs::RunConfig& config,
                               std::optional<int64_t> steps_per_epoch) {
  const trainer::TrainOptions& training = config.training;
  model::DiskShape disk{.keeps_cache = !config.quantization.cache_dir.empty(),
                        .saves = training.save.strategy != trainer::Strategy::kNo,
                        .save_total_limit = training.save.total_limit,
                        .keeps_best = training.save.load_best_model_at_end};
  if (config.exporting.after_training.value_or(false)) {
    const bool is_16bit = config.exporting.grid.type == exporter::QuantizationType::kNone;
    disk.export_bits = is_16bit ? 16 : config.exporting.grid.bits.value_or(4);
  }
  std::optional<int64_t> steps;
  if (steps_per_epoch) steps = trainer::total_steps(training, *steps_per_epoch);
  if (training.max_steps > 0) steps = training.max_steps;
  if (!steps) return disk;
  const bool by_epoch = training.save.strategy == trainer::Strategy::kEpoch;
  if (by_epoch && !steps_per_epoch) return disk;
  const int64_t every = by_epoch ? *steps_per_epoch : training.save.steps;
  disk.saved = (*steps + every - 1) / every;  // the last step always is
  return disk;
}

}  // namespace qlora::cli
