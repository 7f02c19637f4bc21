#include "cli/export_run.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>

#include "cli/output.h"
#include "cli/qat_run.h"
#include "core/error.h"
#include "core/json_file.h"
#include "core/parallel.h"
#include "core/progress.h"
#include "core/signals.h"
#include "exporter/preflight.h"
#include "io/checkpoint.h"

namespace qlora::cli {
namespace {

namespace fs = std::filesystem;

/// Reads the keys of a file over what an earlier one said.
void read_config(const std::string& file, configs::RunConfig& config, RunLog& log) {
  for (const std::string& notice : read_fields(read_json_file(file), config, file).notices) {
    log.notice(notice);
  }
}

/// Applies --set. What a run trained on is over: its section qat is no choice of an export.
void apply_overrides(const std::vector<std::string>& overrides, configs::RunConfig& config,
                     RunLog& log) {
  for (const std::string& assignment : overrides) {
    const ReadNotes notes = override_field(config, assignment);
    const auto key = std::find_if(notes.given.begin(), notes.given.end(), [](const auto& name) {
      return name == "qat" || name.starts_with("qat.");
    });
    QLORA_CHECK(
        key == notes.given.end(), ConfigError,
        "[export] --set {} changes {}, and section qat says what a run trained on; leave it out, "
        "and say what to write with --quantization-type, --bits, --group-size and --merge-base",
        assignment, *key);
    for (const std::string& notice : notes.notices) log.notice(notice);
  }
}

/// A run directory holds the adapter that it ended with.
std::string adapter_of_run(const std::string& run) {
  QLORA_CHECK(
      fs::exists(fs::path(run) / "adapter_model.safetensors"), IoError,
      "[export] {} holds no adapter_model.safetensors; did the run finish? A checkpoint can "
      "be named with --adapter",
      run);
  return run;
}

/// runs/out with awq at 4 bits: runs/out-awq-4bit.
std::string default_output(const std::string& run, const exporter::ExportOptions& options) {
  const exporter::ResolvedGrid grid = exporter::resolve_grid(options.grid);
  std::string path = fs::path(run).lexically_normal().string();
  while (path.ends_with('/')) path.pop_back();
  return grid.is_quantized()
             ? fmt::format("{}-{}-{}bit", path,
                           options.grid.is_trained ? "qat" : exporter::name_of(grid.type),
                           grid.bits)
             : path + "-merged";
}

exporter::ExportSource source_of(const configs::RunConfig& config, const std::string& adapter) {
  const std::string& tokens = config.data.tokens.file;
  const fs::path trained_on = tokens.empty() ? config.data.dataset_name : tokens;
  return {.model_path = config.model_name_or_path,
          .adapter = adapter,
          .training_data = adapter.empty() ? "" : trained_on.filename().string(),
          .qat = config.qat,
          .four_bit = config.quantization.four_bit,
          .compute_dtype = config.compute_dtype};
}

/// Every setting that decides codes, with nothing left to be decided.
Json decided(const exporter::GridOptions& asked, const std::string& model_path) {
  const exporter::ResolvedGrid grid = exporter::resolve_grid(asked);
  exporter::GridOptions all = asked;
  all.type = grid.type;
  all.format = grid.format;
  all.gguf_type = grid.gguf_type;
  if (grid.is_quantized()) all.bits = grid.bits;
  all.symmetric = grid.symmetric;
  all.loader = exporter::Loader::kAny;  // reads the files, changes nothing in them
  all.group_size = exporter::GroupSize::kAuto;
  Json facts = write_fields(all);
  if (!grid.is_quantized() || grid.format == exporter::ExportFormat::kGguf) return facts;
  const io::Checkpoint checkpoint(model_path);
  facts["group_size"] = exporter::preflight(checkpoint.config(), asked).group_size;
  return facts;
}

/// The grid of a run in the words of its section qat.
std::string trained_text(const configs::RunConfig& trained, const exporter::GridOptions& grid) {
  const exporter::ResolvedGrid resolved = exporter::resolve_grid(grid);
  if (trained.qat.scheme == exporter::QatScheme::kExport) return exporter::describe(resolved);
  return fmt::format("{}, {} bits, {}", exporter::name_of(trained.qat.scheme), resolved.bits,
                     resolved.symmetric ? "symmetric" : "asymmetric");
}

/// Whether what is exported is what the run trained on; says where it is not.
void mark_trained_grid(const std::optional<configs::RunConfig>& trained, configs::RunConfig& config,
                       RunLog& log) {
  if (!trained) return;
  config.qat = trained->qat;
  exporter::ExportOptions& options = config.exporting;
  const auto& grid = trained->exporting.grid;
  if (options.merge_base == exporter::MergeBase::kAuto) {
    options.merge_base = trained->qat.merge_base;
  }
  const bool has_same_base =
      options.merge_base == trained->qat.merge_base &&
      (options.merge_base == exporter::MergeBase::kOriginal ||
       write_fields(config.quantization.four_bit) == write_fields(trained->quantization.four_bit));
  exporter::GridOptions trained_on = grid;
  trained_on.is_trained = false;
  if (has_same_base && decided(options.grid, config.model_name_or_path) ==
                           decided(trained_on, config.model_name_or_path)) {
    const exporter::Loader loader = options.grid.loader;
    options.grid = grid;
    options.grid.loader = loader;
    return;
  }
  const bool is_rounded = exporter::resolve_grid(options.grid).is_quantized();
  log.notice(fmt::format("the run trained on {} over the {} base; what is written is {}",
                         trained_text(*trained, trained_on),
                         exporter::name_of(trained->qat.merge_base),
                         !is_rounded     ? "the merged weights before they are rounded"
                         : has_same_base ? "another grid, rounded anew"
                                         : "rounded anew over another base"));
}

std::string result_text(const exporter::ExportResult& result) {
  std::string text = exporter::stages_markdown(result.report);
  if (result.report.gate && !result.report.gate->passed) {
    const auto& gate = *result.report.gate;
    text += fmt::format("\nperplexity ratio {:.3f}, allowed {:.3f}\n", gate.ratio, gate.max_ratio);
  }
  if (!result.output_dir.empty()) {
    text += fmt::format("\n{} in {}, peak memory {}\n", result.model_path.string(),
                        duration_text(result.report.seconds),
                        bytes_text(result.report.peak_memory_bytes));
  }
  return text;
}

}  // namespace

PreparedExport prepare_export(const ExportRequest& request, RunLog& log) {
  PreparedExport prepared{.config = {}, .source = {}, .tokens = request.tokens};
  configs::RunConfig& config = prepared.config;
  if (!request.run.empty()) {
    read_config((fs::path(request.run) / kResolvedConfig).string(), config, log);
  } else if (!request.adapter.empty() && request.model_path.empty() && request.config.empty()) {
    if (const auto file = run_config_of(request.adapter)) read_config(file->string(), config, log);
  }
  if (!request.config.empty()) read_config(request.config, config, log);
  if (request.is_merge) {  // how to quantize is no part of a merge
    config.exporting.grid = {};
    config.exporting.merge_base = exporter::MergeBase::kAuto;
  }
  if (!request.model_path.empty()) config.model_name_or_path = request.model_path;
  apply_overrides(request.overrides, config, log);
  if (!request.compute_dtype.empty()) {
    override_field(config, "compute_dtype=" + request.compute_dtype);
  }
  if (request.threads != 0) config.threads = request.threads;
  validate_fields(config);
  QLORA_CHECK(!config.model_name_or_path.empty(), ConfigError,
              "[usage] no model is named; give --run a run directory, or --model-path a Hugging "
              "Face directory or a GGUF file");
  const std::string& trained_in = request.adapter.empty() ? request.run : request.adapter;
  if (!trained_in.empty()) mark_trained_grid(qat_run_of(trained_in), config, log);
  if (request.is_merge && config.exporting.merge_base == exporter::MergeBase::kAuto) {
    config.exporting.merge_base = exporter::MergeBase::kOriginal;
  }
  std::string adapter = request.adapter;
  if (adapter.empty() && !request.run.empty()) adapter = adapter_of_run(request.run);
  if (config.exporting.output_dir.empty() && !request.run.empty()) {
    config.exporting.output_dir = default_output(request.run, config.exporting);
  }
  prepared.source = source_of(config, adapter);
  if (config.threads > 0) set_thread_count(static_cast<int>(config.threads));
  return prepared;
}

PreparedExport prepare_export_of_run(const configs::RunConfig& config) {
  PreparedExport prepared{
      .config = config, .source = source_of(config, config.training.output_dir), .tokens = {}};
  auto& output = prepared.config.exporting.output_dir;
  if (output.empty()) output = default_output(config.training.output_dir, config.exporting);
  return prepared;
}

int run_export(const PreparedExport& prepared, bool json, RunLog& log, const Json& training) {
  const exporter::ExportOptions& options = prepared.config.exporting;
  NullLog quiet;  // export_model says it all again
  exporter::check_export(prepared.source, options, quiet);
  const exporter::ExportData data = load_export_data(prepared.config, prepared.tokens, log);
  const exporter::ExportResult result = exporter::export_model(prepared.source, data, options, log);
  if (result.interrupted) {
    if (json && !training.is_null()) print_json(training);
    log.notice("stopped; the same command goes on at the block where it stopped");
    return stop_exit_code();
  }
  if (json) {
    Json facts = exporter::to_json(result.report);
    facts["output_dir"] = result.output_dir.string();
    facts["model_path"] = result.model_path.string();
    facts["published"] = !result.output_dir.empty();
    if (training.is_null()) {
      print_json(facts);
    } else {
      Json both = training;
      both["export"] = std::move(facts);
      print_json(both);
    }
  } else {
    print(result_text(result));
  }
  if (!result.gate_failed) return 0;
  log.warn(fmt::format("the loss is above the limit{}; what helps, the cheapest first: {}",
                       options.keep ? ", kept as asked" : ", nothing was published",
                       fmt::join(result.report.gate->advice, "; ")));
  return options.keep ? 0 : kExitGate;
}

int show_export_plan(const PreparedExport& prepared, bool json, RunLog& log) {
  const exporter::Preflight preflight =
      exporter::check_export(prepared.source, prepared.config.exporting, log);
  const Json facts = {{"grid", exporter::describe(preflight.grid)},
                      {"group_size", preflight.group_size},
                      {"matrices", preflight.modules.size()},
                      {"output_bytes", preflight.output_bytes},
                      {"output_dir", prepared.config.exporting.output_dir}};
  json ? print_json(facts) : print(facts_text(facts));
  return 0;
}

}  // namespace qlora::cli
