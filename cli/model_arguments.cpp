#include "cli/model_arguments.h"

#include <CLI/App.hpp>

#include "cli/command.h"
#include "cli/qat_run.h"
#include "core/error.h"
#include "core/json_file.h"
#include "core/parallel.h"
#include "exporter/legality.h"
#include "io/base_record.h"
#include "io/checkpoint.h"

namespace qlora::cli {
namespace {

/// The model that an adapter was trained on, as PEFT notes it.
std::string base_model_of(const std::string& adapter) {
  const std::filesystem::path file = std::filesystem::path(adapter) / "adapter_config.json";
  const Json config = read_json_file(file);
  const Json base = config.is_object() ? config.value("base_model_name_or_path", Json()) : Json();
  QLORA_CHECK(base.is_string() && !base.get<std::string>().empty(), ConfigError,
              "[usage] {} names no base model; give --model-path", file.string());
  return base.get<std::string>();
}

/// An adapter that was trained on a grid is one model with it: base and grid are those of its run.
void take_grid(const std::string& adapter, configs::RunConfig& config, RunLog& log) {
  const auto run = qat_run_of(adapter);
  if (!run) return;
  config.qat = run->qat;
  config.exporting.grid = run->exporting.grid;
  config.exporting.merge_base = run->exporting.merge_base;
  config.quantization = run->quantization;
  config.lora.adapter_dtype = run->lora.adapter_dtype;
  log.notice(
      fmt::format("the weights are rounded to what the adapter was trained on: {}, over the "
                  "{} base (--set qat.scheme=none: without)",
                  exporter::describe(exporter::resolve_grid(config.exporting.grid)),
                  exporter::name_of(config.qat.merge_base)));
}

/// As the configuration spells it.
const char* dtype_name(torch::ScalarType dtype) {
  if (dtype == torch::kBFloat16) return "bf16";
  return dtype == torch::kFloat16 ? "fp16" : "fp32";
}

}  // namespace

void warn_of_other_base(const std::string& adapter, const std::string& model_path, RunLog& log) {
  const auto recorded = io::read_base_record(adapter);
  std::error_code error;
  if (!recorded || std::filesystem::equivalent(recorded->path, model_path, error)) return;
  const auto difference = io::base_difference(adapter, io::Checkpoint(model_path));
  if (difference) log.warn(*difference);
}

std::function<std::string(const std::string&)> not_empty() {
  return [](const std::string& value) {
    return value.empty() ? std::string("is empty; give a value or leave the option out") : "";
  };
}

void add_set_option(CLI::App& command, std::vector<std::string>& overrides) {
  command
      .add_option("--set", overrides,
                  "a configuration key, e.g. quantization.bnb_4bit_quant_type=fp4; may be repeated")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);
}

void add_json_option(CLI::App& command, bool& json) {
  command.add_flag("--json", json, "one JSON object on stdout, everything else on stderr");
}

void add_device_option(CLI::App& command, std::string& device) {
  command
      .add_option(
          "--device", device,
          "auto, cpu or cuda (auto: cuda where it can be used, else the CPU, with the reason)")
      ->check(not_empty())
      ->type_name("DEVICE");
}

void add_model_options(CLI::App& command, ModelArguments& arguments) {
  command
      .add_option(
          "--model-path", arguments.model_path,
          "Hugging Face directory or GGUF file; default: the base model that --adapter names")
      ->check(not_empty())
      ->type_name("PATH");
  command.add_option("--adapter", arguments.adapter, "PEFT adapter folder, e.g. a run directory")
      ->check(not_empty())
      ->type_name("DIR");
  command.add_flag("--load-in-4bit", arguments.load_in_4bit,
                   "hold the base in NF4 with double quantization, as training does");
  command
      .add_option("--compute-dtype", arguments.compute_dtype,
                  "auto, bf16, fp16 or fp32 (auto: BF16 where the machine has it)")
      ->check(not_empty());
  add_device_option(command, arguments.device);
  command.add_option("--threads", arguments.threads, "of the CPU; 0: one per core")
      ->check(not_empty());
  add_set_option(command, arguments.overrides);
  add_json_option(command, arguments.json);
}

configs::RunConfig resolve_config(const ModelArguments& arguments, RunLog& log) {
  configs::RunConfig config;
  config.model_name_or_path = arguments.model_path;
  config.quantization.load_in_4bit = arguments.load_in_4bit;
  if (!arguments.compute_dtype.empty()) {
    override_field(config, "compute_dtype=" + arguments.compute_dtype);
  }
  if (!arguments.device.empty()) override_field(config, "device=" + arguments.device);
  config.threads = arguments.threads;
  if (!arguments.adapter.empty()) take_grid(arguments.adapter, config, log);
  for (const std::string& assignment : arguments.overrides) {
    for (const std::string& notice : override_field(config, assignment).notices) log.notice(notice);
  }
  if (config.model_name_or_path.empty() && !arguments.adapter.empty()) {
    config.model_name_or_path = base_model_of(arguments.adapter);
    log.notice("base model: " + config.model_name_or_path);
  }
  validate_fields(config);
  QLORA_CHECK(!config.model_name_or_path.empty(), ConfigError,
              "[usage] no model is named; give --model-path a Hugging Face directory or a GGUF "
              "file");
  if (config.quantization.bnb_4bit_compute_dtype && arguments.compute_dtype.empty()) {
    config.compute_dtype = *config.quantization.bnb_4bit_compute_dtype;
  }
  return config;
}

model::Decoder load_model(const configs::RunConfig& config, const ModelArguments& arguments,
                          RunLog& log) {
  if (config.threads > 0) set_thread_count(static_cast<int>(config.threads));
  model::Decoder model =
      model::Decoder::load(configs::model_options(config), config.quantization.four_bit, log);
  if (!arguments.adapter.empty()) {
    warn_of_other_base(arguments.adapter, config.model_name_or_path, log);
    model.load_adapter(arguments.adapter, config.lora.adapter_dtype);
    log.notice("adapter: " + arguments.adapter);
  }
  if (config.qat.is_on()) restore_qat_grids(config, arguments.adapter, model);
  return model;
}

Json model_facts(const model::Decoder& model, const configs::RunConfig& config,
                 const ModelArguments& arguments) {
  return {{"model_path", config.model_name_or_path},
          {"adapter", arguments.adapter.empty() ? Json() : Json(arguments.adapter)},
          {"load_in_4bit", config.quantization.load_in_4bit},
          {"compute_dtype", dtype_name(model.compute_dtype())},
          {"device", model.device().str()},
          {"threads", thread_count()},
          {"parameters", model.parameter_count()},
          {"base_bytes", model.base_bytes()}};
}

}  // namespace qlora::cli
