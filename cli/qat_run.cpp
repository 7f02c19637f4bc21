#include "cli/qat_run.h"

#include <algorithm>
#include <filesystem>
#include <vector>

#include "core/error.h"
#include "core/json_file.h"
#include "exporter/base_copy.h"
#include "exporter/export.h"
#include "exporter/interrupted.h"
#include "exporter/legality.h"
#include "exporter/weight_grids.h"
#include "io/atomic_file.h"
#include "io/base_record.h"
#include "io/checkpoint.h"

namespace qlora::cli {
namespace {

namespace fs = std::filesystem;

exporter::Preflight qat_preflight(const configs::RunConfig& config) {
  const io::Checkpoint checkpoint(config.model_name_or_path);
  if (const auto& quantization = checkpoint.quantization()) {
    throw ConfigError(fmt::format(
        "[qat] {} is quantized already ({}), and its codes are not those that training would "
        "round to; name the checkpoint that it was made from",
        config.model_name_or_path, io::describe(quantization->common_form())));
  }
  const exporter::Preflight checked =
      exporter::preflight(checkpoint.config(), config.exporting.grid);
  const bool rounds = std::any_of(checked.modules.begin(), checked.modules.end(),
                                  [](const auto& module) { return module.is_quantized(); });
  QLORA_CHECK(rounds, ConfigError,
              "[qat] skip_modules leaves no linear of {} to round; leave some out of it, or set "
              "scheme to none",
              config.model_name_or_path);
  const auto& blocks = checkpoint.config().arch.blocks;
  const bool has_experts = std::any_of(blocks.begin(), blocks.end(),
                                       [](const auto& block) { return block.has_experts; });
  QLORA_CHECK(
      !has_experts || !config.qat.awq_scales, ConfigError,
      "[qat] awq_scales is true, but {} is a mixture of experts, for which AWQ's scales are "
      "not searched; leave it out",
      config.model_name_or_path);
  return checked;
}

/// throws ConfigError where a folder that section qat names is not there
void check_named(const char* key, const std::string& folder) {
  std::error_code error;
  QLORA_CHECK(folder.empty() || fs::is_directory(folder, error), ConfigError,
              "[qat] {} is {}, which is no folder here; name that of an awq or gptq export", key,
              folder);
}

/// A folder beside the run's.
fs::path beside(const configs::RunConfig& config, const char* suffix) {
  fs::path folder = fs::path(config.training.output_dir).lexically_normal();
  if (!folder.has_filename()) folder = folder.parent_path();
  folder += suffix;
  return folder;
}

/// A resumed run takes the copy that it made.
exporter::IfMade if_made(const configs::RunConfig& config) {
  return config.training.resume.empty() ? exporter::IfMade::kReplace : exporter::IfMade::kReuse;
}

exporter::ExportSource base_of(const configs::RunConfig& config) {
  return {.model_path = config.model_name_or_path, .compute_dtype = config.compute_dtype};
}

void take_base(configs::RunConfig& config, const fs::path& copy, RunLog& log) {
  log.notice(fmt::format("the base is {} from here on", copy.string()));
  config.model_name_or_path = copy.string();
}

void scale_base(configs::RunConfig& config, const data::ExampleSet& rows, RunLog& log) {
  const fs::path copy = beside(config, "-awq-base");
  exporter::fold_awq(base_of(config), rows, config.exporting, copy, if_made(config), log);
  take_base(config, copy, log);
  config.qat.awq_scales = false;  // what the run trains on is scaled already
}

/// GPTQ's codes of the base on the run's grid, as an export.
void solve_codes(const configs::RunConfig& config, const data::ExampleSet& rows,
                 const fs::path& folder, RunLog& log) {
  const exporter::ResolvedGrid grid = exporter::resolve_grid(config.exporting.grid);
  exporter::ExportOptions options = config.exporting;
  options.grid.type = exporter::QuantizationType::kGptq;
  options.grid.format = grid.format == exporter::ExportFormat::kGptqV2
                            ? exporter::ExportFormat::kGptqV2
                            : exporter::ExportFormat::kGptq;
  options.grid.bits = grid.bits;
  options.grid.symmetric = grid.symmetric;
  options.grid.is_trained = false;
  options.gptq.desc_act = false;  // groups are runs of columns
  options.evaluation = {.enabled = false};
  options.merge_base = exporter::MergeBase::kOriginal;
  options.output_dir = folder.string();
  options.work_dir.clear();
  options.overwrite = true;
  log.notice(fmt::format("GPTQ's codes: solved into {}", folder.string()));
  const exporter::ExportData data{.calibration = rows, .evaluation = {}, .protocol = {}};
  if (exporter::export_model(base_of(config), data, options, log).interrupted) {
    exporter::unwind_export();
  }
}

void start_from_codes(configs::RunConfig& config, const data::ExampleSet& rows, RunLog& log) {
  exporter::QatOptions& qat = config.qat;
  const fs::path copy = beside(config, "-start-base"), solved = beside(config, "-start-codes");
  const bool solves = qat.start_from == exporter::kStartFromGptq;
  const std::string codes = solves ? solved.string() : qat.start_from;
  const exporter::IfMade made = if_made(config);
  const bool is_made = made == exporter::IfMade::kReuse && fs::exists(copy);
  if (solves && !is_made) solve_codes(config, rows, solved, log);
  if (is_made && !fs::exists(codes)) {
    log.notice(fmt::format("{} is not there any more: {} is taken as it is", codes, copy.string()));
  } else {
    exporter::ExportSource source = base_of(config);
    source.adapter = config.lora.init_adapter;
    exporter::move_base(source, codes, config.exporting, copy, made, log);
  }
  take_base(config, copy, log);
  qat.grid_from = codes;
  qat.start_from.clear();  // what the run trains on is moved already
}

}  // namespace

void check_qat(const configs::RunConfig& config) {
  qat_preflight(config);
  if (!config.training.resume.empty()) return;  // what they gave may be in the checkpoint
  check_named("grid_from", config.qat.grid_from);
  if (config.qat.start_from != exporter::kStartFromGptq) {
    check_named("start_from", config.qat.start_from);
  }
}

bool prepare_base(configs::RunConfig& config, const data::ExampleSet& rows, RunLog& log) {
  exporter::QatOptions& qat = config.qat;
  if (!qat.is_on()) return true;
  try {
    if (qat.awq_scales) scale_base(config, rows, log);
    if (!qat.start_from.empty()) start_from_codes(config, rows, log);
  } catch (const exporter::Interrupted&) {
    return false;
  }
  return true;
}

void set_qat_grids(const configs::RunConfig& config, bool has_saved_grids, model::Decoder& model) {
  const exporter::Preflight checked = qat_preflight(config);
  model.set_grids(has_saved_grids ? exporter::grids_to_restore(checked, config.qat)
                                  : exporter::weight_grids(checked, config.qat));
  model.set_kv_rounding(config.qat.kv_cache);
}

void restore_qat_grids(const configs::RunConfig& config, const std::string& adapter,
                       model::Decoder& model) {
  model.set_grids(exporter::trained_grids(qat_preflight(config), config.qat, adapter));
  model.set_kv_rounding(config.qat.kv_cache);
  model.set_fake_quant(true);
  model.hold_rounded_weights();
}

std::optional<fs::path> run_config_of(const std::string& adapter) {
  for (const fs::path& place : io::adapter_places(adapter)) {
    if (io::is_present(place / kResolvedConfig)) return place / kResolvedConfig;
  }
  return std::nullopt;
}

std::optional<configs::RunConfig> qat_run_of(const std::string& adapter) {
  const auto file = run_config_of(adapter);
  if (!file) return std::nullopt;
  const Json json = read_json_file(*file);
  const auto section = json.is_object() ? json.find("qat") : json.end();
  if (section == json.end() || !section->is_object() ||
      section->value("scheme", "none") == std::string("none")) {
    return std::nullopt;
  }
  configs::RunConfig config;
  read_fields(json, config, file->string());
  config.exporting.grid = exporter::qat_grid(config.qat, config.exporting.grid);
  return config;
}

}  // namespace qlora::cli
