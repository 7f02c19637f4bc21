// What resolve() of configs/run_config.h decides, refuses and tells.
#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "core/error.h"
#include "tests/configs/small_config.h"
#include "tests/support/errors.h"

namespace qlora::configs {
namespace {

using model::ComputeDtype;

std::string refusal(const std::function<void(RunConfig&)>& change) {
  RunConfig config = small_config();
  change(config);
  return testing::refusal_of<ConfigError>([&] { resolve(config); }, "[config] ");
}

std::string only_notice(const std::function<void(RunConfig&)>& change) {
  RunConfig config = small_config();
  change(config);
  const auto notices = resolve(config);
  return notices.size() == 1 ? notices[0] : std::to_string(notices.size()) + " notices";
}

ComputeDtype decided(const std::function<void(RunConfig&)>& change) {
  RunConfig config = small_config();
  change(config);
  resolve(config);
  return config.compute_dtype;
}

TEST(Resolve, ComputeDtypeWinners) {
  const auto nothing = [](RunConfig&) {};
  EXPECT_EQ(decided(nothing), ComputeDtype::kAuto);
  EXPECT_EQ(decided([](RunConfig& c) { c.training.fp16 = true; }), ComputeDtype::kFloat16);
  EXPECT_EQ(decided([](RunConfig& c) { c.training.bf16 = true; }), ComputeDtype::kBFloat16);
  EXPECT_EQ(decided([](RunConfig& c) {
              c.training.fp16 = true;
              c.compute_dtype = ComputeDtype::kFloat32;
            }),
            ComputeDtype::kFloat32);
  EXPECT_EQ(decided([](RunConfig& c) {
              c.training.fp16 = true;
              c.quantization.bnb_4bit_compute_dtype = ComputeDtype::kBFloat16;
            }),
            ComputeDtype::kBFloat16);
  EXPECT_EQ(decided([](RunConfig& c) {
              c.training.bf16 = true;
              c.quantization.bnb_4bit_compute_dtype = ComputeDtype::kAuto;
            }),
            ComputeDtype::kBFloat16);
  EXPECT_EQ(only_notice([](RunConfig& c) {
              c.training.fp16 = true;
              c.compute_dtype = ComputeDtype::kBFloat16;
            }),
            "fp16 is true, but the compute type bf16 wins: matrix products and gradients are bf16");
}

TEST(Resolve, RefusesContradictions) {
  struct Case {
    const char* part;
    std::function<void(RunConfig&)> change;
  };
  const Case cases[] = {
      {"model_name_or_path is empty", [](RunConfig& c) { c.model_name_or_path = ""; }},
      {"lora.r is 0, allowed: a whole number, 1 to 1024", [](RunConfig& c) { c.lora.r = 0; }},
      {"lora.enabled is false", [](RunConfig& c) { c.lora.enabled = false; }},
      {"data.dataset_name is empty", [](RunConfig& c) { c.data.dataset_name = ""; }},
      {"data.dataset_name and data.tokens.file are both set",
       [](RunConfig& c) { c.data.tokens.file = "t.safetensors"; }},
      {"data.tokens.eval names a tensor", [](RunConfig& c) { c.data.tokens.eval = "heldout"; }},
      {"data.validation_split is 1.5", [](RunConfig& c) { c.data.validation_split = 1.5; }},
      {"each make an evaluation set",
       [](RunConfig& c) {
         c.data.validation_split = 0.1;
         c.data.eval_dataset_name = "e.jsonl";
       }},
      {"there is no evaluation set",
       [](RunConfig& c) { c.training.evaluate.strategy = trainer::Strategy::kSteps; }},
      {"there is no evaluation set", [](RunConfig& c) { c.training.evaluate.on_start = true; }},
      {"allowed only where eval_strategy and save_strategy are the same",
       [](RunConfig& c) { c.training.save.load_best_model_at_end = true; }},
      {"save_steps is 500 and evaluation is every 7 steps",
       [](RunConfig& c) {
         c.data.validation_split = 0.1;
         c.training.evaluate.strategy = trainer::Strategy::kSteps;
         c.training.evaluate.steps = 7;
         c.training.save.load_best_model_at_end = true;
       }},
      {"max_steps is 0", [](RunConfig& c) { c.training.max_steps = 0; }},
      {"overwrite would delete what resume goes on from",
       [](RunConfig& c) {
         c.training.overwrite = true;
         c.training.resume = "auto";
       }},
      {"report_to holds \"none\" beside",
       [](RunConfig& c) {
         c.training.report_to = {"none", "tensorboard"};
       }},
      {"quantization.block_size is 96, allowed: a power of two",
       [](RunConfig& c) { c.quantization.four_bit.block_size = 96; }},
      {"fp16 and bf16 are both true",
       [](RunConfig& c) { c.training.fp16 = c.training.bf16 = true; }},
      {"bnb_4bit_compute_dtype is \"fp16\" and compute_dtype is \"bf16\"", [](RunConfig& c) {
         c.quantization.bnb_4bit_compute_dtype = ComputeDtype::kFloat16;
         c.compute_dtype = ComputeDtype::kBFloat16;
       }}};
  for (const Case& refused : cases) {
    const std::string message = refusal(refused.change);
    EXPECT_SAYS(message, refused.part);
  }
}

TEST(Resolve, ChecksTheTemplatesVariables) {
  RunConfig config = small_config();
  config.data.example.chat.chat_template_kwargs = "[1]";
  EXPECT_ERROR(ConfigError, resolve(config), "data.chat_template_kwargs is array");
}

TEST(Resolve, AllowsWhatOnlyLooksLikeOne) {
  EXPECT_EQ(refusal([](RunConfig& c) {
              c.data.dataset_name = "";
              c.data.tokens.file = "t.safetensors";
              c.data.tokens.eval = "heldout";
              c.training.evaluate.strategy = trainer::Strategy::kEpoch;
              c.training.save.strategy = trainer::Strategy::kEpoch;
              c.training.save.load_best_model_at_end = true;
            }),
            "");
  EXPECT_EQ(refusal([](RunConfig& c) { c.data.validation_split = 100; }), "");
  EXPECT_EQ(refusal([](RunConfig& c) {  // eval_steps 0 means logging_steps
              c.data.validation_split = 0.5;
              c.training.evaluate.strategy = trainer::Strategy::kSteps;
              c.training.logging_steps = 250;
              c.training.save.load_best_model_at_end = true;
            }),
            "");
  EXPECT_EQ(refusal([](RunConfig& c) {
              c.compute_dtype = ComputeDtype::kFloat16;
              c.quantization.bnb_4bit_compute_dtype = ComputeDtype::kFloat16;
            }),
            "");
}

TEST(Resolve, SaysWhatDoesNotCount) {
  struct Case {
    const char* notice;
    std::function<void(RunConfig&)> change;
  };
  const Case cases[] = {
      {"0 notices", [](RunConfig& c) { c.training.max_steps = 5; }},
      {"0 notices", [](RunConfig& c) { c.quantization.load_in_4bit = false; }},
      {"0 notices", [](RunConfig& c) { c.training.schedule.warmup_steps = 3; }},
      {"max_steps is set: num_train_epochs does not count",
       [](RunConfig& c) {
         c.training.max_steps = 5;
         c.training.num_train_epochs = 2;
       }},
      {"lr_scheduler_type is constant: the warmup does not count; constant_with_warmup has one",
       [](RunConfig& c) {
         c.training.schedule.kind = trainer::ScheduleKind::kConstant;
         c.training.schedule.warmup_ratio = 0.03;
       }},
      {"warmup_steps is set: warmup_ratio does not count",
       [](RunConfig& c) {
         c.training.schedule.warmup_steps = 3;
         c.training.schedule.warmup_ratio = 0.03;
       }},
      {"warmup_steps is 5 of 5 steps: the full rate is never reached",
       [](RunConfig& c) {
         c.training.max_steps = 5;
         c.training.schedule.warmup_steps = 5;
       }},
      {"watchdog.action is roll_back, but save_strategy is no: without a checkpoint it stops",
       [](RunConfig& c) {
         c.training.watchdog.action = trainer::WatchdogAction::kRollBack;
         c.training.save.strategy = trainer::Strategy::kNo;
       }},
      {"load_in_4bit is false: the other settings of the 4-bit type do not count",
       [](RunConfig& c) {
         c.quantization.load_in_4bit = false;
         c.quantization.four_bit.block_size = 128;
       }}};
  for (const Case& said : cases) EXPECT_EQ(only_notice(said.change), said.notice);
}

}  // namespace
}  // namespace qlora::configs
