#include "cli/run_check.h"

#include "cli/export_run.h"
#include "cli/model_arguments.h"
#include "cli/qat_run.h"
#include "cli/token_input.h"
#include "core/error.h"
#include "core/parallel.h"
#include "exporter/export.h"
#include "lora/peft_files.h"
#include "model/device_choice.h"

namespace qlora::cli {
namespace {

/// What cannot be written is told before the training, not after it.
void check_export_at_end(const configs::RunConfig& config) {
  if (!config.exporting.after_training.value_or(false)) return;
  const PreparedExport prepared = prepare_export_of_run(config);
  NullLog quiet;
  exporter::check_export(prepared.source, prepared.config.exporting, quiet);
}

/// The adapter that a run begins with, against section lora and the base.
void check_init_adapter(const configs::RunConfig& config, RunLog& log) {
  const std::string& adapter = config.lora.init_adapter;
  if (adapter.empty()) return;
  const auto notice = lora::check_init_adapter(lora::read_peft_adapter(adapter), config.lora);
  if (notice) log.notice(*notice);
  warn_of_other_base(adapter, config.model_name_or_path, log);
}

/// A run that never rounds is a mistake.
void check_start_step(const configs::RunConfig& config, const Plan& plan) {
  const auto total = plan.facts["total_steps"].get<int64_t>();
  QLORA_CHECK(!config.qat.is_on() || config.qat.start_step < total, ConfigError,
              "[qat] start_step is {}, but the run has {} steps and would never round; allowed: "
              "below that",
              config.qat.start_step, total);
}

}  // namespace

CheckedRun check_run(const configs::RunConfig& config, RunLog& log) {
  CheckedRun run{.start = trainer::check_run_directory(config.training, log)};
  model::check_device(config.device);
  if (config.threads > 0) set_thread_count(static_cast<int>(config.threads));
  if (config.qat.is_on()) check_qat(config);
  check_export_at_end(config);
  if (config.training.resume.empty()) check_init_adapter(config, log);
  run.data = load_run_data(config, log);
  run.plan = make_plan(config, run.data);
  check_start_step(config, run.plan);
  return run;
}

}  // namespace qlora::cli
