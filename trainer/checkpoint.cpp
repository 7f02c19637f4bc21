#include "trainer/checkpoint.h"

#include <ATen/ops/empty_like.h>

#include <cstring>
#include <nlohmann/json.hpp>
#include <span>
#include <utility>

#include "core/error.h"
#include "core/json_file.h"
#include "io/atomic_file.h"
#include "io/safetensors.h"
#include "io/sha256.h"
#include "lora/grid_files.h"
#include "lora/peft_files.h"
#include "lora/tensor_view.h"
#include "trainer/resume_check.h"

namespace qlora::trainer {
namespace {

namespace fs = std::filesystem;

constexpr int kFormatVersion = 1;  // on disk: raise with every change that old files do not survive

std::vector<NamedTensor> master_tensors(const std::vector<Parameter>& parameters) {
  std::vector<NamedTensor> tensors;
  for (const Parameter& parameter : parameters) {
    tensors.push_back({"master." + parameter.name, parameter.value.detach()});
  }
  return tensors;
}

std::vector<NamedTensor> learnt_tensors(const Optimizer& optimizer) {
  std::vector<NamedTensor> tensors = master_tensors(optimizer.parameters());
  for (NamedTensor& tensor : optimizer.state_tensors()) tensors.push_back(std::move(tensor));
  return tensors;
}

void write_tensors(const fs::path& file, const std::vector<NamedTensor>& tensors) {
  std::vector<torch::Tensor> on_cpu;  // keeps copies alive
  std::vector<io::TensorView> views;
  for (const NamedTensor& tensor : tensors) {
    const torch::Tensor& host = on_cpu.emplace_back(tensor.value.cpu().contiguous());
    views.push_back(lora::tensor_view(tensor.name, host));
  }
  io::write_safetensors(file, views, {{"format", "qlora training state"}});
}

void read_tensors(const fs::path& file, const std::vector<NamedTensor>& tensors) {
  const io::SafetensorsReader reader(file);
  for (const NamedTensor& tensor : tensors) {  // all are checked before the first is changed
    const io::TensorView* view = reader.find(tensor.name);
    QLORA_CHECK(view != nullptr, ConfigError,
                "[trainer] {} has no {}; lora.target_modules and optim must be those of the "
                "checkpoint",
                file.string(), tensor.name);
    const io::DType dtype = lora::file_dtype(tensor.value.scalar_type());
    const std::vector<int64_t> shape = tensor.value.sizes().vec();
    QLORA_CHECK(view->dtype == dtype && view->shape == shape, ConfigError,
                "[trainer] {} is {} {} in {}, {} {} in this run; lora.r and the model must be "
                "those of the checkpoint",
                tensor.name, io::dtype_name(view->dtype), io::shape_text(view->shape),
                file.string(), io::dtype_name(dtype), io::shape_text(shape));
  }
  for (const NamedTensor& tensor : tensors) {
    const io::TensorView& view = reader.at(tensor.name);
    torch::Tensor host = tensor.value.is_cpu() && tensor.value.is_contiguous()
                             ? tensor.value
                             : at::empty_like(tensor.value, at::kCPU);
    std::memcpy(host.data_ptr(), view.bytes.data(), view.bytes.size());
    if (!host.is_same(tensor.value)) tensor.value.detach().copy_(host);
  }
}

nlohmann::json read_state(const fs::path& directory) {
  const fs::path file = directory / "trainer_state.json";
  nlohmann::json state = read_json_file(file);
  const auto version = state.is_object() ? state.find("format_version") : state.end();
  QLORA_CHECK(version != state.end() && *version == kFormatVersion, FormatError,
              "[trainer] {} is not of format_version {}; resume with the program that wrote it",
              file.string(), kFormatVersion);
  return state;
}

/// Runs `restore` on the state; a key that is missing or of a wrong type is a damaged file.
template <class Restore>
void with_state(const fs::path& directory, const Restore& restore) {
  const nlohmann::json state = read_state(directory);
  try {
    restore(state);
  } catch (const nlohmann::json::exception& problem) {
    throw FormatError(fmt::format("[trainer] {} is damaged: {}",
                                  (directory / "trainer_state.json").string(), problem.what()));
  }
}

}  // namespace

std::vector<Parameter> adapter_parameters(const model::Decoder& model) {
  std::vector<Parameter> parameters;
  for (const lora::NamedAdapter& named : model.adapters()) {
    parameters.push_back({named.module + ".lora_A", named.adapter.a});
    parameters.push_back({named.module + ".lora_B", named.adapter.b});
  }
  for (const auto& [module, grid] : model.grids()) {
    if (grid.held != nullptr && grid.held->factor.defined()) {
      parameters.push_back({module + ".grid_factor", grid.held->factor});
    }
  }
  return parameters;
}

std::string hash_examples(const data::ExampleSet& set) {
  io::Sha256 hash;
  for (const data::Example& example : set.examples) {
    const auto length = static_cast<int64_t>(example.tokens.size());
    hash.update(std::as_bytes(std::span(&length, 1)));
    hash.update(std::as_bytes(std::span(example.tokens)));
    hash.update(std::as_bytes(std::span(example.learn)));
  }
  return hash.hex();
}

void save_checkpoint(const fs::path& directory, const Progress& progress,
                     const TrainingState& state, const RunIdentity& identity,
                     const RunFacts& facts) {
  io::AtomicDirectory folder(directory, io::IfExists::kReplace);
  lora::write_peft_adapter(folder.path(), state.model.adapters(), facts.lora, facts.base_model);
  if (state.model.is_rounding()) lora::write_grids(folder.path(), state.model.grids());
  write_tensors(folder.path() / "optimizer.safetensors", learnt_tensors(state.optimizer));
  nlohmann::json json = progress;
  json["format_version"] = kFormatVersion;
  json["epoch"] = state.batches.epochs_done();
  json["optimizer_updates"] = state.optimizer.updates();
  json["data"] = state.batches.state();
  json["loss_scaler"] = state.scaler.state();
  json["watchdog"] = state.watchdog.state();
  json["options"] = identity.options;
  json["train_hash"] = identity.train_hash;
  json["base_parameters"] = state.model.parameter_count();
  json["compute_dtype"] = c10::toString(state.model.compute_dtype());
  io::write_file_atomic(folder.path() / "trainer_state.json",
                        json.dump(1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
  folder.commit();
}

Progress load_checkpoint(const fs::path& directory, const TrainingState& state,
                         const RunIdentity& identity, RunLog& log) {
  Progress progress;
  with_state(directory, [&](const nlohmann::json& json) {
    check_same_options(Json(json.at("options")), identity.options, log);
    QLORA_CHECK(json.at("train_hash") == identity.train_hash, ConfigError,
                "[trainer] the training set is not that of {}; a resumed run needs the same rows, "
                "tokenizer, prompt_template, loss_on and max_length",
                directory.string());
    QLORA_CHECK(json.at("base_parameters") == state.model.parameter_count(), ConfigError,
                "[trainer] the base model has {} parameters, that of {} had {}; a resumed run "
                "needs the same",
                state.model.parameter_count(), directory.string(),
                json.at("base_parameters").dump());
    const std::string compute_dtype = c10::toString(state.model.compute_dtype());
    if (json.at("compute_dtype") != compute_dtype) {
      log.warn(
          fmt::format("[trainer] compute_dtype is {}, the checkpoint was made with {}: the "
                      "losses will differ from those of one run",
                      compute_dtype, json.at("compute_dtype").dump()));
    }
    state.batches.restore(json.at("data").get<data::Batches::State>());
    state.watchdog.restore(json.at("watchdog").get<Watchdog::State>());
    json.get_to(progress);
  });
  load_learnt_state(directory, state);
  return progress;
}

bool has_saved_grids(const fs::path& directory) {
  return fs::exists(directory / lora::kGridFile);
}

void load_learnt_state(const fs::path& directory, const TrainingState& state) {
  if (has_saved_grids(directory)) lora::read_grids(directory, state.model.grids());
  read_tensors(directory / "optimizer.safetensors", learnt_tensors(state.optimizer));
  with_state(directory, [&](const nlohmann::json& json) {
    state.optimizer.set_updates(json.at("optimizer_updates").get<int64_t>());
    state.scaler.restore(json.at("loss_scaler").get<LossScaler::State>());
  });
}

void load_adapters(const fs::path& directory, const model::Decoder& model) {
  if (has_saved_grids(directory)) lora::read_grids(directory, model.grids());
  read_tensors(directory / "optimizer.safetensors", master_tensors(adapter_parameters(model)));
}

}  // namespace qlora::trainer
