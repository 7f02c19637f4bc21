#include <CLI/App.hpp>
#include <filesystem>
#include <memory>

#include "cli/command.h"
#include "cli/export_run.h"
#include "cli/model_arguments.h"
#include "cli/output.h"
#include "core/error.h"
#include "core/log_sinks.h"
#include "core/parallel.h"
#include "core/signals.h"
#include "exporter/legality.h"

namespace qlora::cli {
namespace {

constexpr const char* kExamples = R"(Examples:
  qlora export --run runs/out --output-dir out-awq
  qlora export --run runs/out --output-dir out-gptq --quantization-type gptq --group-size 64
  qlora export --model-path M --output-dir out --dataset-name rows.jsonl --bits 8
  qlora export --config configs/export-production.json --run runs/out --output-dir out

merge, calibrate, quantize, write, read back and check, measure, report. Ctrl-C stops; the same
command goes on at the block where it stopped. Exit code 3: the loss is above
--max-perplexity-ratio, and nothing was published.
)";

/// Flags that are configuration keys: --group-size 64 is --set export.group_size=64.
struct KeyFlag {
  const char* flag;
  const char* key;
  const char* type;
  const char* help;
};

constexpr KeyFlag kFlags[] = {
    {"--output-dir", "export.output_dir", "DIR", "the folder that is written"},
    {"--quantization-type", "export.quantization_type", "TYPE",
     "awq (default), gptq, smoothquant, fp8, rtn or none"},
    {"--format", "export.format", "FORMAT",
     "auto, awq, gptq, gptq_v2, compressed-tensors, gguf, hf or nf4"},
    {"--gguf-type", "export.gguf_type", "TYPE", "auto, f16, q8_0, q4_0 or q4_k"},
    {"--bits", "export.bits", "N", "4 (default), 8, 3 or 2"},
    {"--group-size", "export.group_size", "N", "auto (default), 128, 64, 32 or -1"},
    {"--symmetric", "export.symmetric", "BOOL", "true or false; default: as the format's kernels"},
    {"--loader", "export.loader", "NAME", "any, vllm, transformers, gptqmodel or llama.cpp"},
    {"--calibration-samples", "export.calibration_samples", "N", "rows (512)"},
    {"--dataset-name", "export.dataset_name", "FILE",
     "calibration rows; default: the run's training data"},
    {"--dataset-split", "export.dataset_split", "NAME", "split of the data set (train)"},
    {"--max-seq-length", "export.max_seq_length", "N", "longest calibration row in tokens (1500)"},
    {"--eval-dataset-name", "export.eval_dataset_name", "FILE",
     "held-out rows; default: the run's, or a part of the calibration rows"},
    {"--merge-base", "export.merge_base", "BASE", "auto (default), original or nf4"},
    {"--max-perplexity-ratio", "export.max_perplexity_ratio", "X",
     "fail with exit code 3 where quantizing costs more"},
    {"--max-shard-size", "export.max_shard_size", "SIZE", "of safetensors files (5GB)"},
    {"--work-dir", "export.work_dir", "DIR", "for activations and finished blocks"}};

struct ExportArguments {
  ExportRequest request;
  std::string values[std::size(kFlags)];
  bool keep = false;
  bool overwrite = false;
  bool dry_run = false;
  bool json = false;
};

/// Flags first, then --set, which has the last word.
std::vector<std::string> overrides_of(const ExportArguments& arguments) {
  std::vector<std::string> all;
  for (size_t i = 0; i < std::size(kFlags); ++i) {
    if (arguments.values[i].empty()) continue;
    all.push_back(std::string(kFlags[i].key) + "=" + arguments.values[i]);
  }
  if (arguments.keep) all.emplace_back("export.keep=true");
  if (arguments.overwrite) all.emplace_back("export.overwrite=true");
  all.insert(all.end(), arguments.request.overrides.begin(), arguments.request.overrides.end());
  return all;
}

int run_command(ExportArguments arguments) {
  TerminalLog log(stderr);
  arguments.request.overrides = overrides_of(arguments);
  const PreparedExport prepared = prepare_export(arguments.request, log);
  if (arguments.dry_run) return show_export_plan(prepared, arguments.json, log);
  ignore_broken_pipes();
  const StopSignals signals;
  return run_export(prepared, arguments.json, log);
}

constexpr const char* kMergeExamples = R"(Examples:
  qlora merge --run runs/out --output-dir out-merged
  qlora merge --model-path M --adapter runs/out --output-dir out --max-shard-size 2GB
  qlora merge --run runs/out --output-dir out --format nf4     rounds the merged weights again

The adapter is added to the original weights, of a run that trained on a grid to the base that it
trained on, unless --merge-base says otherwise. The model is written in 16 bits, with tokenizer,
chat template and generation config. qlora export does the same and goes on to 4 bits, with every
step measured.
)";

/// Merging is the export that quantizes nothing; nothing is measured unless --set asks for it.
int run_merge(ExportArguments arguments, const std::string& format) {
  std::vector<std::string> defaults = {"export.evaluate=false"};
  const bool is_nf4 = format == "nf4" || format == "bitsandbytes";
  defaults.push_back(std::string("export.quantization_type=") + (is_nf4 ? "rtn" : "none"));
  if (!format.empty()) defaults.push_back("export.format=" + format);
  for (std::string& given : overrides_of(arguments)) defaults.push_back(std::move(given));
  arguments.request.overrides = std::move(defaults);
  arguments.request.is_merge = true;
  for (std::string& value : arguments.values) value.clear();
  return run_command(std::move(arguments));
}

void add_source_options(CLI::App& command, ExportArguments& arguments) {
  ExportRequest& request = arguments.request;
  const auto add = [&command](const char* flag, std::string& value, const char* help,
                              const char* type) {
    command.add_option(flag, value, help)->check(not_empty())->type_name(type);
  };
  add("--run", request.run, "run directory: its base, adapter and data", "DIR");
  add("--model-path", request.model_path, "Hugging Face directory or GGUF file", "PATH");
  add("--adapter", request.adapter, "PEFT adapter folder", "DIR");
  add("--config", request.config, "configuration with an `export` section", "FILE");
  command.add_flag("--overwrite", arguments.overwrite, "replace an output folder that exists");
  command.add_option("--threads", request.threads, "of the CPU; 0: one per core")
      ->check(not_empty());
  command.add_flag("--dry-run", arguments.dry_run, "check and print the plan, write nothing");
  add_set_option(command, request.overrides);
  add_json_option(command, arguments.json);
}

void add_key_flag(CLI::App& command, ExportArguments& arguments, size_t index) {
  const KeyFlag& flag = kFlags[index];
  command.add_option(flag.flag, arguments.values[index], flag.help)
      ->check(not_empty())
      ->type_name(flag.type);
}

}  // namespace

void add_merge(CLI::App& program, Action& action) {
  auto arguments = std::make_shared<ExportArguments>();
  auto format = std::make_shared<std::string>();
  CLI::App& command =
      *program.add_subcommand("merge", "Fold an adapter into its base and write the model.");
  command.footer(kMergeExamples);
  add_source_options(command, *arguments);
  command.add_option("--format", *format, "hf (default), gguf, or nf4 by name")
      ->check(not_empty())
      ->type_name("FORMAT");
  for (size_t i = 0; i < std::size(kFlags); ++i) {
    const std::string_view flag = kFlags[i].flag;
    if (flag == "--output-dir" || flag == "--merge-base" || flag == "--max-shard-size") {
      add_key_flag(command, *arguments, i);
    }
  }
  command.callback([arguments, format, &action] {
    action = [arguments, format] { return run_merge(*arguments, *format); };
  });
}

void add_export(CLI::App& program, Action& action) {
  auto arguments = std::make_shared<ExportArguments>();
  CLI::App& command = *program.add_subcommand(
      "export", "Merge, quantize, write and measure a model for inference engines.");
  command.footer(std::string(kExamples) + "\nLegal combinations:\n" + exporter::legality_text());
  ExportRequest& request = arguments->request;
  add_source_options(command, *arguments);
  command.add_option("--tokens", request.tokens.calibration, "calibration ids [rows, L]")
      ->check(not_empty())
      ->type_name("FILE:TENSOR");
  command.add_option("--eval-tokens", request.tokens.evaluation, "held-out ids [rows, L]")
      ->check(not_empty())
      ->type_name("FILE:TENSOR");
  for (size_t i = 0; i < std::size(kFlags); ++i) add_key_flag(command, *arguments, i);
  command.add_flag("--keep", arguments->keep, "publish although the gate refused");
  command.add_option("--compute-dtype", request.compute_dtype, "auto, bf16, fp16 or fp32")
      ->check(not_empty());
  command.callback(
      [arguments, &action] { action = [arguments] { return run_command(*arguments); }; });
}

}  // namespace qlora::cli
