#pragma once

#include <filesystem>
#include <string>

#include "core/run_log.h"
#include "data/batches.h"
#include "model/decoder.h"
#include "trainer/loss_scaler.h"
#include "trainer/optimizer.h"
#include "trainer/progress.h"
#include "trainer/run_facts.h"
#include "trainer/watchdog.h"

namespace qlora::trainer {

/// Everything that learns or counts, by reference: what a checkpoint saves and restores.
struct TrainingState {
  model::Decoder& model;
  Optimizer& optimizer;
  LossScaler& scaler;
  data::Batches& batches;
  Watchdog& watchdog;
};

/// What a checkpoint says about its run, to be compared on resume.
struct RunIdentity {
  Json options;            // write_fields(TrainOptions)
  std::string train_hash;  // of the training set's tokens, hash_examples()
};

/// Names and FP32 masters of all adapters, "model.layers.0.self_attn.q_proj.lora_A", …, and of
/// learned scales, "model.layers.0.self_attn.q_proj.grid_factor".
std::vector<Parameter> adapter_parameters(const model::Decoder& model);

/// SHA-256 of all tokens and masks, in order.
std::string hash_examples(const data::ExampleSet& set);

/// Writes a checkpoint: it appears complete or not at all.
///   Files     adapter_model.safetensors, adapter_config.json: for peft, in the adapters' dtype;
///             optimizer.safetensors: FP32 masters and optimizer states; trainer_state.json:
///             counters, data cursor, loss scale, history; qat_grids.safetensors where rounding
///             to held or measured grids has begun; manifest.json: sizes and hashes
///   throws    IoError (no space left, …): earlier checkpoints are as they were
void save_checkpoint(const std::filesystem::path& directory, const Progress& progress,
                     const TrainingState& state, const RunIdentity& identity,
                     const RunFacts& facts);

/// Restores everything; the run goes on as if it had not stopped.
///   directory  complete, as verify_manifest says
///   throws     ConfigError where options, model or training set are not those of the checkpoint;
///              FormatError where the files are not what save_checkpoint writes
Progress load_checkpoint(const std::filesystem::path& directory, const TrainingState& state,
                         const RunIdentity& identity, RunLog& log);

/// Restores adapters, optimizer and loss scale alone: the watchdog's roll-back.
void load_learnt_state(const std::filesystem::path& directory, const TrainingState& state);

/// True where a checkpoint holds grids that rounding goes on with.
bool has_saved_grids(const std::filesystem::path& directory);

/// Restores the adapters' masters and grids alone: load_best_model_at_end.
void load_adapters(const std::filesystem::path& directory, const model::Decoder& model);

}  // namespace qlora::trainer
