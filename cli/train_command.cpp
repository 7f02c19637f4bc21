#include <CLI/App.hpp>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cli/command.h"
#include "cli/export_run.h"
#include "cli/memory_report.h"
#include "cli/model_arguments.h"
#include "cli/output.h"
#include "cli/plan.h"
#include "cli/qat_run.h"
#include "cli/run_check.h"
#include "core/error.h"
#include "core/log_sinks.h"
#include "core/out_of_memory.h"
#include "core/signals.h"
#include "data/example_builder.h"
#include "data/tokenizer.h"
#include "trainer/checkpoint.h"
#include "trainer/finish.h"
#include "trainer/run_lock.h"
#include "trainer/train.h"

namespace qlora::cli {
namespace {

constexpr const char* kExamples = R"(Examples:
  qlora train configs/smollm2-quickstart.json
  qlora train run.json --set learning_rate=1e-4 --set lora.r=8 --output-dir runs/r8
  qlora train run.json --dry-run              the plan: data, parameters, steps, memory
  qlora train run.json --resume auto          go on from the newest complete checkpoint

Ctrl-C ends the step, saves a checkpoint and exits with 130 (SIGTERM: 143; SIGHUP, a terminal that
was closed: 129).
)";

struct TrainArguments {
  std::string config;
  std::vector<std::string> overrides;
  std::string resume;
  std::string output_dir;
  std::string device;
  bool overwrite = false;
  bool dry_run = false;
  bool json = false;
};

/// The options of this subcommand are configuration keys; they have the last word.
std::vector<std::string> all_overrides(const TrainArguments& arguments) {
  std::vector<std::string> all = arguments.overrides;
  if (!arguments.resume.empty()) all.push_back("resume=" + Json(arguments.resume).dump());
  if (!arguments.output_dir.empty()) {
    all.push_back("output_dir=" + Json(arguments.output_dir).dump());
  }
  if (!arguments.device.empty()) all.push_back("device=" + arguments.device);
  if (arguments.overwrite) all.emplace_back("overwrite=true");
  return all;
}

model::Decoder load_with_adapters(const configs::RunConfig& config, bool has_saved_grids,
                                  RunLog& log) {
  model::Decoder model =
      model::Decoder::load(configs::model_options(config), config.quantization.four_bit, log);
  model.add_adapters(config.lora, config.training.seed);
  if (config.qat.is_on()) set_qat_grids(config, has_saved_grids, model);
  return model;
}

/// The model's path where a tokenizer is there, else empty: a run over token ids needs none.
std::string tokenizer_source(const configs::RunConfig& config) {
  try {
    data::load_tokenizer(config.model_name_or_path);
    return config.model_name_or_path;
  } catch (const IoError&) {
    return "";
  }
}

trainer::RunFacts run_facts(const configs::RunConfig& config, const data::TrainingData& data,
                            const Plan& plan, const trainer::RunLock& lock) {
  return {.lora = config.lora,
          .base_model = config.model_name_or_path,
          .tokenizer_source = tokenizer_source(config),
          .chat_template_path = config.data.example.chat.chat_template_path,
          .config = write_fields(config),
          .qat = config.qat.is_on() ? Json{{"section", write_fields(config.qat)},
                                           {"grid", write_fields(config.exporting.grid)}}
                                    : Json(),
          .data_name = data.train.name,
          .planned_bytes = static_cast<uint64_t>(plan.memory.total()),
          .lock = &lock};
}

/// As a shell takes it for one word.
std::string quoted(const std::string& word) {
  constexpr const char* kPlain =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=.,:/@%";
  if (!word.empty() && word.find_first_not_of(kPlain) == std::string::npos) return word;
  std::string text = "'";
  for (const char c : word) text += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return text + "'";
}

/// The same run, from its newest checkpoint.
std::string resume_command(const TrainArguments& arguments) {
  std::string command = "qlora train " + quoted(arguments.config);
  for (const std::string& assignment : arguments.overrides) {
    if (assignment.starts_with("resume=") || assignment.starts_with("overwrite=")) continue;
    command += " --set " + quoted(assignment);
  }
  if (!arguments.output_dir.empty()) command += " --output-dir " + quoted(arguments.output_dir);
  if (!arguments.device.empty()) command += " --device " + quoted(arguments.device);
  return command + " --resume auto";
}

/// exports   the one JSON object is left to the export that follows
///   returns   what standard output did not take; its reader may have gone
std::optional<IoError> print_result(const trainer::TrainResult& result,
                                    const TrainArguments& arguments, bool exports) {
  if (arguments.json && exports && !result.interrupted) return std::nullopt;
  try {
    if (arguments.json) {
      print_json(Json(trainer::result_json(result)));
    } else {
      print(trainer::summary_text(result) + "\n");
    }
  } catch (const IoError& error) {
    return error;
  }
  return std::nullopt;
}

/// The model is gone from memory when this returns.
trainer::TrainResult load_and_train(const configs::RunConfig& config,
                                    const data::TrainingData& data, const Plan& plan,
                                    bool has_saved_grids, const trainer::RunLock& lock,
                                    StageLog& log) {
  model::Decoder model = load_with_adapters(config, has_saved_grids, log);
  log.enter("the optimizer's states");
  return trainer::train(model, data.train, data.eval ? &*data.eval : nullptr, config.training,
                        run_facts(config, data, plan, lock), log);
}

/// throws    IoError or DeviceError with the plan where memory runs out
trainer::TrainResult run_training(const configs::RunConfig& config, const data::TrainingData& data,
                                  const Plan& plan, bool has_saved_grids,
                                  const trainer::RunLock& lock, RunLog& log) {
  StageLog stages(log);
  try {
    return load_and_train(config, data, plan, has_saved_grids, lock, stages);
  } catch (const std::exception& error) {
    const auto problem = as_out_of_memory(error);
    if (!problem) throw;
    const std::string text = out_of_memory_text(*problem, stages.stage(), plan);
    if (problem->is_device) throw DeviceError(text);
    throw IoError(text);
  }
}

int train(const TrainArguments& arguments) {
  ignore_broken_pipes();
  TerminalLog log(stderr);
  const configs::LoadedConfig loaded =
      configs::load_run_config(arguments.config, all_overrides(arguments));
  configs::RunConfig config = loaded.config;
  for (const std::string& notice : loaded.notices) log.notice(notice);
  const CheckedRun run = check_run(config, log);
  const bool has_saved_grids =
      run.start.checkpoint && trainer::has_saved_grids(*run.start.checkpoint);
  if (arguments.dry_run) {
    arguments.json ? print_json(run.plan.facts) : print(plan_text(run.plan) + "\n");
    return 0;
  }
  show_plan(run.plan, log);
  const trainer::RunLock lock(config.training.output_dir, log);
  const StopSignals signals;
  if (!prepare_base(config, run.data.train, log)) {
    log.notice(
        "stopped before the first step; the same command goes on at the block where it "
        "stopped");
    return stop_exit_code();
  }
  const trainer::TrainResult result =
      run_training(config, run.data, run.plan, has_saved_grids, lock, log);
  const bool exports = config.exporting.after_training.value_or(false);
  const auto unread = print_result(result, arguments, exports);
  if (result.interrupted) {  // a terminal that was closed may be what takes nothing
    log.notice(fmt::format("stopped at step {} of {}; go on with: {}", result.steps,
                           result.total_steps, resume_command(arguments)));
    return stop_exit_code();
  }
  const int code = exports ? run_export(prepare_export_of_run(config), arguments.json, log,
                                        Json(trainer::result_json(result)))
                           : 0;
  if (unread) throw IoError(*unread);
  return code;
}

}  // namespace

void add_train(CLI::App& program, Action& action) {
  auto arguments = std::make_shared<TrainArguments>();
  CLI::App& command = *program.add_subcommand(
      "train", "Fine-tune adapters over a frozen 4-bit model, as a configuration says.");
  command.footer(kExamples);
  command.add_option("CONFIG", arguments->config, "JSON file; docs/config.md lists its keys")
      ->required();
  add_set_option(command, arguments->overrides);
  command
      .add_option("--resume", arguments->resume,
                  "auto: go on from the newest complete checkpoint; or a checkpoint's folder")
      ->check(not_empty())
      ->type_name("auto|PATH");
  command.add_option("--output-dir", arguments->output_dir, "instead of the configuration's")
      ->check(not_empty())
      ->type_name("DIR");
  add_device_option(command, arguments->device);
  command.add_flag("--overwrite", arguments->overwrite, "delete what an earlier run left there");
  command.add_flag("--dry-run", arguments->dry_run, "print the plan and stop");
  add_json_option(command, arguments->json);
  command.callback([arguments, &action] { action = [arguments] { return train(*arguments); }; });
}

}  // namespace qlora::cli
