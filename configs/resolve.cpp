// What several keys of a run have to satisfy together.
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>

#include "configs/run_config.h"
#include "core/error.h"

namespace qlora::configs {
namespace {

using model::ComputeDtype;
using trainer::ScheduleKind;
using trainer::Strategy;
using Notices = std::vector<std::string>;

template <class E>
const char* name_of(E wanted) {
  for (const auto& [value, name] : EnumNames<E>::kNames) {
    if (value == wanted) return name;
  }
  return "?";
}

bool has_evaluation_set(const data::DataOptions& data) {
  return !data.eval_dataset_name.empty() || !data.tokens.eval.empty() || data.validation_split > 0;
}

// bnb_4bit_compute_dtype or compute_dtype, whichever is set; then the fp16 and bf16 flags.
void decide_compute_dtype(RunConfig& config, Notices& notices) {
  const auto& training = config.training;
  QLORA_CHECK(!(training.fp16 && training.bf16), ConfigError,
              "[config] fp16 and bf16 are both true, allowed at most one; set compute_dtype");
  const auto bnb = config.quantization.bnb_4bit_compute_dtype;
  const bool bnb_is_set = bnb && *bnb != ComputeDtype::kAuto;
  const bool own_is_set = config.compute_dtype != ComputeDtype::kAuto;
  QLORA_CHECK(!bnb_is_set || !own_is_set || *bnb == config.compute_dtype, ConfigError,
              "[config] quantization.bnb_4bit_compute_dtype is \"{}\" and compute_dtype is \"{}\", "
              "two names of one setting; keep one",
              name_of(bnb.value_or(ComputeDtype::kAuto)), name_of(config.compute_dtype));
  if (bnb_is_set) config.compute_dtype = *bnb;
  if (!training.fp16 && !training.bf16) return;
  const ComputeDtype flag = training.fp16 ? ComputeDtype::kFloat16 : ComputeDtype::kBFloat16;
  if (config.compute_dtype == ComputeDtype::kAuto) config.compute_dtype = flag;
  if (config.compute_dtype == flag) return;
  notices.push_back(
      fmt::format("{} is true, but the compute type {} wins: matrix products and gradients are {}",
                  training.fp16 ? "fp16" : "bf16", name_of(config.compute_dtype),
                  name_of(config.compute_dtype)));
}

void check_data(const data::DataOptions& data) {
  data::check_options(data.example.chat);
  const bool has_rows = !data.dataset_name.empty(), has_tokens = !data.tokens.file.empty();
  QLORA_CHECK(has_rows || has_tokens, ConfigError,
              "[config] data.dataset_name is empty: there is nothing to train on; name a .jsonl, "
              ".json or .csv file");
  QLORA_CHECK(!has_rows || !has_tokens, ConfigError,
              "[config] data.dataset_name and data.tokens.file are both set; keep one");
  QLORA_CHECK(has_tokens || data.tokens.eval.empty(), ConfigError,
              "[config] data.tokens.eval names a tensor, but data.tokens.file is empty; name the "
              "file");
  const double split = data.validation_split;
  QLORA_CHECK(split < 1 || split == std::floor(split), ConfigError,
              "[config] data.validation_split is {}, allowed: a fraction below 1 or a whole number "
              "of rows",
              split);
  const int ways = (split > 0) + !data.eval_dataset_name.empty() + !data.tokens.eval.empty();
  QLORA_CHECK(ways <= 1, ConfigError,
              "[config] data.eval_dataset_name, data.validation_split and data.tokens.eval each "
              "make an evaluation set; keep one");
}

void check_evaluation_and_saving(const RunConfig& config, Notices& notices) {
  const auto& evaluate = config.training.evaluate;
  const auto& save = config.training.save;
  const bool evaluates = evaluate.strategy != Strategy::kNo || evaluate.on_start;
  QLORA_CHECK(!evaluates || has_evaluation_set(config.data), ConfigError,
              "[config] eval_strategy or eval_on_start asks for evaluation, but there is no "
              "evaluation set; set data.eval_dataset_name or data.validation_split");
  if (save.load_best_model_at_end) {
    QLORA_CHECK(evaluate.strategy != Strategy::kNo && evaluate.strategy == save.strategy,
                ConfigError,
                "[config] load_best_model_at_end is true, allowed only where eval_strategy and "
                "save_strategy are the same and not \"no\"");
    const int64_t every = evaluate.steps > 0 ? evaluate.steps : config.training.logging_steps;
    QLORA_CHECK(save.strategy != Strategy::kSteps || save.steps % every == 0, ConfigError,
                "[config] load_best_model_at_end is true, save_steps is {} and evaluation is every "
                "{} steps, allowed: save_steps a multiple of that",
                save.steps, every);
  }
  const bool rolls_back = config.training.watchdog.action == trainer::WatchdogAction::kRollBack;
  if (rolls_back && save.strategy == Strategy::kNo) {
    notices.push_back(
        "watchdog.action is roll_back, but save_strategy is no: without a checkpoint it stops");
  }
}

void check_schedule(const trainer::TrainOptions& training, Notices& notices) {
  QLORA_CHECK(training.max_steps != 0, ConfigError,
              "[config] max_steps is 0, allowed: above 0, or -1 for num_train_epochs");
  const bool sets_epochs = training.num_train_epochs != trainer::TrainOptions{}.num_train_epochs;
  if (training.max_steps > 0 && sets_epochs) {
    notices.push_back("max_steps is set: num_train_epochs does not count");
  }
  const auto& schedule = training.schedule;
  const bool warms_up = schedule.warmup_steps > 0 || schedule.warmup_ratio > 0;
  if (warms_up && schedule.kind == ScheduleKind::kConstant) {
    notices.push_back(
        "lr_scheduler_type is constant: the warmup does not count; constant_with_warmup has one");
  }
  if (schedule.warmup_steps > 0 && schedule.warmup_ratio > 0) {
    notices.push_back("warmup_steps is set: warmup_ratio does not count");
  }
  if (training.max_steps > 0 && schedule.warmup_steps >= training.max_steps) {
    notices.push_back(fmt::format("warmup_steps is {} of {} steps: the full rate is never reached",
                                  schedule.warmup_steps, training.max_steps));
  }
}

void check_run(const trainer::TrainOptions& training) {
  QLORA_CHECK(!training.overwrite || training.resume.empty(), ConfigError,
              "[config] overwrite would delete what resume goes on from; keep one");
  const auto& report_to = training.report_to;
  const bool has_none = std::count(report_to.begin(), report_to.end(), "none") > 0;
  QLORA_CHECK(!has_none || report_to.size() == 1, ConfigError,
              "[config] report_to holds \"none\" beside another entry; keep one");
}

void check_quantization(const QuantizationOptions& quantization, Notices& notices) {
  const auto& chosen = quantization.four_bit;
  QLORA_CHECK(std::has_single_bit(static_cast<uint64_t>(chosen.block_size)), ConfigError,
              "[config] quantization.block_size is {}, allowed: a power of two, 32 to 4096",
              chosen.block_size);
  const quant::Nf4Options usual;
  const bool is_usual = chosen.quant_type == usual.quant_type &&
                        chosen.block_size == usual.block_size &&
                        chosen.double_quant == usual.double_quant;
  if (!quantization.load_in_4bit && !is_usual) {
    notices.push_back("load_in_4bit is false: the other settings of the 4-bit type do not count");
  }
}

/// What section qat asks of the rest of the run.
void check_qat(const RunConfig& config) {
  using exporter::MergeBase;
  const exporter::QatOptions& qat = config.qat;
  QLORA_CHECK(qat.merge_base != MergeBase::kAuto, ConfigError,
              "[config] qat.merge_base is auto, but training needs one base; allowed: nf4, "
              "original");
  const bool is_nf4 = qat.merge_base == MergeBase::kNf4;
  QLORA_CHECK(
      is_nf4 == config.quantization.load_in_4bit, ConfigError,
      "[config] qat.merge_base is {}, but quantization.load_in_4bit is {}; {}",
      is_nf4 ? "nf4" : "original", config.quantization.load_in_4bit,
      is_nf4 ? "set it true, or merge_base to original" : "set it false, or merge_base to nf4");
  const MergeBase exported = config.exporting.merge_base;
  QLORA_CHECK(exported == MergeBase::kAuto || exported == qat.merge_base, ConfigError,
              "[config] export.merge_base is {}, but the run trains on {}; leave it out",
              name_of(exported), name_of(qat.merge_base));
  QLORA_CHECK(qat.scheme != exporter::QatScheme::kExport || !config.exporting.gptq.desc_act,
              ConfigError,
              "[config] export.desc_act is true, but training on the grid of section export leaves "
              "columns in their order; leave it out");
  const double decay = config.training.optimizer.weight_decay;
  QLORA_CHECK(!qat.learns_scales() || decay == 0, ConfigError,
              "[config] weight_decay is {}, which would pull learned scales of qat towards 0; set "
              "it to 0",
              decay);
  QLORA_CHECK(
      qat.start_step == 0 || !config.training.save.load_best_model_at_end, ConfigError,
      "[config] load_best_model_at_end is true and qat.start_step {}: evaluations before it "
      "are of the weights that are not rounded; set one of the two to its default",
      qat.start_step);
  QLORA_CHECK(
      config.lora.lora_dropout == 0 || qat.start_step > 0, ConfigError,
      "[config] lora.lora_dropout is {}, but the merged weight of qat leaves the adapter no "
      "input of its own to drop from; set it to 0",
      config.lora.lora_dropout);
}

/// Section export becomes what the run trains on, so that the resolved file says what will ship.
void decide_qat(RunConfig& config, Notices& notices) {
  const exporter::QatOptions& qat = config.qat;
  if (!qat.is_on()) {
    if (write_fields(qat) != write_fields(exporter::QatOptions{})) {
      notices.push_back(
          "section qat has settings, but its scheme is none: training rounds nothing to a grid");
    }
    return;
  }
  check_qat(config);
  if (config.lora.lora_dropout > 0) {
    notices.push_back(
        fmt::format("lora_dropout counts until qat.start_step ({}), not after it", qat.start_step));
  }
  auto& exporting = config.exporting;
  const auto grid = exporter::qat_grid(qat, exporting.grid);
  const Json asked = write_fields(exporting.grid);
  if (asked != write_fields(exporter::GridOptions{}) && asked != write_fields(grid)) {
    notices.push_back(
        "section qat decides the grid; what section export says of it does not count");
  }
  exporting.grid = grid;
  exporting.merge_base = qat.merge_base;
  config.training.fake_quant = {.start_step = qat.start_step, .refresh_steps = qat.refresh_steps};
}

}  // namespace

std::vector<std::string> resolve(RunConfig& config) {
  Notices notices;
  validate_fields(config);
  QLORA_CHECK(!config.model_name_or_path.empty(), ConfigError,
              "[config] model_name_or_path is empty; name a Hugging Face directory or a GGUF file");
  QLORA_CHECK(config.lora.enabled, ConfigError,
              "[config] lora.enabled is false: there is nothing to train; leave the key out");
  check_data(config.data);
  check_evaluation_and_saving(config, notices);
  check_schedule(config.training, notices);
  check_run(config.training);
  check_quantization(config.quantization, notices);
  decide_compute_dtype(config, notices);
  decide_qat(config, notices);
  return notices;
}

}  // namespace qlora::configs
