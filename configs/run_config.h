#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/fields.h"
#include "data/data_options.h"
#include "exporter/export_options.h"
#include "exporter/qat_options.h"
#include "lora/lora_options.h"
#include "model/model_options.h"
#include "quant/nf4_options.h"
#include "trainer/train_options.h"

namespace qlora::configs {

/// Section `quantization`: how the frozen base is held in memory.
struct QuantizationOptions {
  bool load_in_4bit = true;  // false: the base stays in 16 bits (LoRA without Q)
  quant::Nf4Options four_bit;
  std::optional<model::ComputeDtype> bnb_4bit_compute_dtype;  // another way to say compute_dtype
  std::string cache_dir;  // keeps the quantized base for the next start; empty: does not
};

/// A whole run: the modules' option structs side by side. Its keys are those that users of
/// transformers, peft and trl know; docs/config.md lists them.
struct RunConfig {
  std::string model_name_or_path;  // HF directory or GGUF file
  trainer::TrainOptions training;  // its keys stand at the top, as in transformers
  int64_t threads = 0;             // of the CPU; 0: one per core that the process may use
  model::ComputeDtype compute_dtype = model::ComputeDtype::kAuto;
  model::DeviceChoice device = model::DeviceChoice::kAuto;
  QuantizationOptions quantization;
  lora::LoraOptions lora;
  data::DataOptions data;
  exporter::QatOptions qat;
  exporter::ExportOptions exporting;  // section `export`
};

template <class V>
void fields(V& v, QuantizationOptions& o) {
  v("load_in_4bit", o.load_in_4bit, any_value(),
    "hold the frozen matrices in 4 bits; false: in 16 bits");
  v.inline_section(o.four_bit);
  v("bnb_4bit_compute_dtype", o.bnb_4bit_compute_dtype, any_value(),
    "the name that bitsandbytes has for compute_dtype; set one of the two");
  v("cache_dir", o.cache_dir, any_value(),
    "folder that keeps the quantized base for the next start; empty: none");
  v.alias("bnb_4bit_blocksize", "block_size");
}

template <class V>
void fields(V& v, RunConfig& o) {
  v("model_name_or_path", o.model_name_or_path, any_value(),
    "the base model: a Hugging Face directory or a GGUF file on this machine");
  v.inline_section(o.training);
  v("threads", o.threads, in_range(0, 4096), "of the CPU; 0: one per core");
  v("compute_dtype", o.compute_dtype, any_value(),
    "of matrix products and what flows between them; auto: what fp16 or bf16 asks for, else BF16 "
    "where the CPU or GPU has it, else FP32");
  v("device", o.device, any_value(), "auto: CUDA where there is a GPU and the CUDA module");
  v.section("quantization", o.quantization, "How the frozen base is held in memory.");
  v.section("lora", o.lora, "The adapters: what is trained.");
  v.section("data", o.data, "What is trained on.");
  v.section("qat", o.qat, "Training on the grid that is exported: the weight that ships.");
  v.section(
      "export", o.exporting,
      "What `qlora export` writes, and `qlora train` at its end where this section is there.");
  v.alias("model", "model_name_or_path");
  v.alias("model_path", "model_name_or_path");
  v.alias("base_model", "model_name_or_path");
  v.alias("num_threads", "threads");
  v.alias("load_in_4bit", "quantization.load_in_4bit");
  v.alias("bnb_4bit_quant_type", "quantization.bnb_4bit_quant_type");
  v.alias("bnb_4bit_use_double_quant", "quantization.bnb_4bit_use_double_quant");
  v.alias("bnb_4bit_compute_dtype", "quantization.bnb_4bit_compute_dtype");
  v.alias("lora_r", "lora.r");
  v.alias("lora_alpha", "lora.lora_alpha");
  v.alias("lora_dropout", "lora.lora_dropout");
  v.alias("lora_target_modules", "lora.target_modules");
  v.alias("target_modules", "lora.target_modules");
  v.alias("dataset_name", "data.dataset_name");
  v.alias("train_file", "data.dataset_name");
  v.alias("eval_dataset_name", "data.eval_dataset_name");
  v.alias("validation_file", "data.eval_dataset_name");
  v.alias("dataset_text_field", "data.dataset_text_field");
  v.alias("max_length", "data.max_length");
  v.alias("max_seq_length", "data.max_length");
}

/// A configuration that is ready to run, and what its reader should know.
struct LoadedConfig {
  RunConfig config;                  // checked; compute_dtype holds the winner of its contenders
  std::vector<std::string> notices;  // synonyms that were read, settings that another one beats
};

/// Reads a configuration file, applies `--set` assignments in their order, checks the whole.
///   throws    ConfigError, FormatError, IoError: one line with file and path
LoadedConfig load_run_config(const std::string& path, const std::vector<std::string>& overrides);

/// What several keys together have to satisfy, beyond what each one's constraint says; decides
/// compute_dtype. Opens no file. Returns notices; throws ConfigError.
std::vector<std::string> resolve(RunConfig& config);

/// What model loading takes.
model::ModelOptions model_options(const RunConfig& config);

// What `qlora config` shows.
std::string config_page();                         // docs/config.md
Json config_schema();                              // JSON Schema, draft 2020-12
std::string explain_key(const std::string& path);  // one key or section; all keys where empty
Json explain_key_json(const std::string& path);    // the same for programs

}  // namespace qlora::configs
