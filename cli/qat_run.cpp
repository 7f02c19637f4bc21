#include "cli/qat_run.h"

#include <filesystem>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/json_file.h"
#include "exporter/base_copy.h"
#include "exporter/interrupted.h"
#include "exporter/legality.h"
#include "exporter/weight_grids.h"
#include "io/base_record.h"
#include "io/checkpoint.h"
#include "lora/grid_files.h"

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
  return exporter::preflight(checkpoint.config(), config.exporting.grid);
}

}  // namespace

void check_qat(const configs::RunConfig& config) {
  qat_preflight(config);
}

bool prepare_base(configs::RunConfig& config, const data::ExampleSet& rows, RunLog& log) {
  exporter::QatOptions& qat = config.qat;
  if (!qat.is_on() || (!qat.awq_scales && qat.start_from.empty())) return true;
  fs::path folder = fs::path(config.training.output_dir).lexically_normal();
  if (!folder.has_filename()) folder = folder.parent_path();
  folder += qat.awq_scales ? "-awq-base" : "-start-base";
  if (config.training.resume.empty() || !fs::exists(folder / "config.json")) {
    const exporter::ExportSource source{.model_path = config.model_name_or_path,
                                        .adapter = config.lora.init_adapter,
                                        .compute_dtype = config.compute_dtype};
    try {
      if (qat.awq_scales) {
        exporter::fold_awq(source, rows, config.exporting, folder, log);
      } else {
        exporter::move_base(source, qat.start_from, config.exporting, folder, log);
      }
    } catch (const exporter::Interrupted&) {
      return false;
    }
  }
  log.notice(fmt::format("the base is {} from here on", folder.string()));
  config.model_name_or_path = folder.string();
  // What the run trains on is scaled or moved already.
  qat.awq_scales = false;
  if (!qat.start_from.empty()) qat.grid_from = std::exchange(qat.start_from, "");
  return true;
}

void set_qat_grids(const configs::RunConfig& config, model::Decoder& model) {
  model.set_grids(exporter::weight_grids(qat_preflight(config), config.qat));
  model.set_kv_rounding(config.qat.kv_cache);
}

void restore_qat_grids(const configs::RunConfig& config, const std::string& adapter,
                       model::Decoder& model) {
  set_qat_grids(config, model);
  lora::read_grids(adapter, model.grids());
  model.set_fake_quant(true);
  model.hold_rounded_weights();
}

std::optional<configs::RunConfig> qat_run_of(const std::string& adapter) {
  for (const fs::path& place : io::adapter_places(adapter)) {
    const fs::path file = place / "config.resolved.json";
    if (!fs::exists(file)) continue;
    const Json json = read_json_file(file);
    const auto section = json.is_object() ? json.find("qat") : json.end();
    if (section == json.end() || !section->is_object() ||
        section->value("scheme", "none") == std::string("none")) {
      return std::nullopt;
    }
    configs::RunConfig config;
    read_fields(json, config, file.string());
    config.exporting.grid = exporter::qat_grid(config.qat, config.exporting.grid);
    return config;
  }
  return std::nullopt;
}

}  // namespace qlora::cli
