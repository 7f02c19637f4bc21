#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/fields.h"
#include "core/run_log.h"
#include "tests/support/errors.h"
#include "trainer/resume_check.h"
#include "trainer/train_options.h"

namespace qlora::trainer {
namespace {

class WarningLog final : public RunLog {
 public:
  void notice(const std::string&) override {}
  void warn(const std::string& text) override { warnings.push_back(text); }
  void live(const std::string&) override {}
  void event(const std::string&, const nlohmann::json&) override {}
  std::vector<std::string> warnings;
};

TEST(TrainOptions, ReadsTheNamesThatUsersKnow) {
  TrainOptions options;
  read_fields(Json::parse(R"({"output_dir": "r", "lr": 1e-3, "optim": "paged_adamw_32bit",
      "lr_scheduler_type": "cosine", "micro_batch_size": 2, "gradient_clipping": 0.5,
      "evaluation_strategy": "epoch", "resume_from_checkpoint": "auto", "sample_packing": true,
      "watchdog": {"action": "roll_back"}, "loss_scaling": {"kind": "static"}})"),
              options, "test");
  EXPECT_EQ(options.optimizer.learning_rate, 1e-3);
  EXPECT_EQ(options.optimizer.kind, OptimizerKind::kAdamW32bit);
  EXPECT_EQ(options.schedule.kind, ScheduleKind::kCosine);
  EXPECT_EQ(options.batching.per_device_train_batch_size, 2);
  EXPECT_EQ(options.max_gradient_norm, 0.5);
  EXPECT_EQ(options.evaluate.strategy, Strategy::kEpoch);
  EXPECT_EQ(options.resume, "auto");
  EXPECT_TRUE(options.batching.packing);
  EXPECT_EQ(options.watchdog.action, WatchdogAction::kRollBack);
  EXPECT_EQ(options.loss_scaling.kind, LossScalingKind::kStatic);
}

TEST(TrainOptions, DefaultsAreAllowedAndSurviveJson) {
  TrainOptions options;
  validate_fields(options);
  options.seed = 7;
  options.batching.shuffle = false;
  TrainOptions read;
  read_fields(write_fields(options), read, "test");
  EXPECT_EQ(write_fields(read), write_fields(options));
}

TEST(TrainOptions, EpochsHaveABound) {
  TrainOptions options;
  override_field(options, "num_train_epochs=1000000");
  EXPECT_ERROR(ConfigError, override_field(options, "num_train_epochs=1e18"), "num_train_epochs");
  EXPECT_ERROR(ConfigError, override_field(options, "num_train_epochs=0"), "num_train_epochs");
}

TEST(TrainOptions, OptimizerNamesOfTransformersAreRead) {
  for (const auto& [name, kind] : {std::pair{"paged_adamw_8bit", OptimizerKind::kPagedAdamW8bit},
                                   std::pair{"adamw_bnb_8bit", OptimizerKind::kAdamW8bit},
                                   std::pair{"adamw_8bit", OptimizerKind::kAdamW8bit},
                                   std::pair{"adamw_torch", OptimizerKind::kAdamW32bit},
                                   std::pair{"adamw_torch_fused", OptimizerKind::kAdamW32bit}}) {
    TrainOptions options;
    override_field(options, std::string("optim=") + name);
    EXPECT_EQ(options.optimizer.kind, kind) << name;
  }
  TrainOptions options;
  EXPECT_THROW(override_field(options, "optim=sgd"), ConfigError);
  EXPECT_THROW(override_field(options, "report_to=wandb"), ConfigError);
}

Json changed(const std::string& assignment) {
  TrainOptions options;
  override_field(options, assignment);
  return write_fields(options);
}

TEST(ResumeCheck, WhatTheStatesDependOnMustMatch) {
  const Json saved = write_fields(TrainOptions());
  NullLog log;
  for (const std::string key :
       {"seed=7", "per_device_train_batch_size=2", "gradient_accumulation_steps=9", "packing=true",
        "shuffle=false", "optim=adamw_torch"}) {
    EXPECT_ERROR(ConfigError, check_same_options(saved, changed(key), log),
                 key.substr(0, key.find('=')))
        << key;
  }
}

/// A run over a base in 4 bits, as the program describes it.
RunFacts facts_of_a_run() {
  RunFacts facts;
  facts.config = Json::parse(R"({"quantization": {"load_in_4bit": true, "block_size": 64,
      "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": true, "cache_dir": ""}})");
  return facts;
}

/// A checkpoint's options come back from a file.
Json saved_identity(const RunFacts& facts) {
  return Json::parse(identity_json(TrainOptions(), facts).dump());
}

TEST(ResumeCheck, WhatTheModelIsMadeOfMustMatch) {
  const Json saved = saved_identity(facts_of_a_run());
  const auto refuse = [&](const RunFacts& facts, const std::string& text) {
    NullLog log;
    EXPECT_ERROR(ConfigError, check_same_options(saved, identity_json(TrainOptions(), facts), log),
                 text);
  };
  for (const auto& [assignment, text] :
       {std::pair{"r=8", "lora.r is 8, the checkpoint was made with 16"},
        std::pair{"lora_alpha=64", "lora.lora_alpha is 64.0, the checkpoint was made with 32.0"},
        std::pair{"lora_dropout=0.1", "lora.lora_dropout is 0.1"},
        std::pair{"target_modules=q_proj,v_proj", "lora.target_modules is [\"q_proj\",\"v_proj\"]"},
        std::pair{"use_rslora=true", "lora.use_rslora is true"},
        std::pair{"adapter_dtype=fp32", "lora.adapter_dtype is \"fp32\""},
        std::pair{"rank_pattern.q_proj=4", "lora.rank_pattern.q_proj is 4"},
        std::pair{"alpha_pattern.q_proj=4", "lora.alpha_pattern.q_proj is 4.0"}}) {
    RunFacts facts = facts_of_a_run();
    override_field(facts.lora, assignment);
    refuse(facts, text);
  }
  const std::vector<std::pair<std::string, Json>> other_bases = {
      {"load_in_4bit", false},
      {"bnb_4bit_quant_type", "fp4"},
      {"block_size", 128},
      {"bnb_4bit_use_double_quant", false}};
  for (const auto& [key, value] : other_bases) {
    RunFacts facts = facts_of_a_run();
    facts.config["quantization"][key] = value;
    refuse(facts, "quantization." + key + " is " + value.dump());
  }
}

TEST(ResumeCheck, WhatIsRoundedToMustMatchAndOneKeyIsNamed) {
  RunFacts facts = facts_of_a_run();
  const Json plain = saved_identity(facts);
  facts.qat = {
      {"section", {{"scheme", "int8"}, {"bits", nullptr}, {"skip_modules", Json::array()}}},
      {"grid", {{"quantization_type", "smoothquant"}, {"bits", 8}}}};
  const Json saved = saved_identity(facts);
  const Json before = facts.qat;
  const auto refuse = [&](const Json& of_checkpoint, const std::string& text) {
    NullLog log;
    const Json now = identity_json(TrainOptions(), facts);
    const std::string error = testing::message_of<ConfigError>(
        [&] { check_same_options(of_checkpoint, now, log); }, "[trainer] " + text);
    EXPECT_LT(error.size(), 400u);
  };
  refuse(plain, "qat.scheme is \"int8\", the checkpoint was made with \"none\"");
  facts.qat["section"]["bits"] = 4;
  refuse(saved, "qat.bits is 4, the checkpoint was made with null");
  facts.qat = before;
  facts.qat["grid"]["bits"] = 4;
  refuse(saved, "export.bits is 4, the checkpoint was made with 8");
  facts.qat = before;
  for (int i = 0; i < 500; ++i) facts.qat["section"]["skip_modules"].push_back("a längerer name");
  refuse(saved, "qat.skip_modules is [\"a l");
  facts.qat = Json();
  refuse(saved, "qat.scheme is \"none\", the checkpoint was made with \"int8\"");
}

TEST(ResumeCheck, WhatTheCheckpointDoesNotKnowIsNotCompared) {
  RunFacts facts = facts_of_a_run();
  const Json saved = saved_identity(facts);
  NullLog log;
  override_field(facts.lora, "r=8");
  facts.config["quantization"]["load_in_4bit"] = false;
  const Json changed = identity_json(TrainOptions(), facts);
  EXPECT_NO_THROW(check_same_options(write_fields(TrainOptions()), changed, log));

  facts = facts_of_a_run();
  override_field(facts.lora, "init_adapter=elsewhere");
  facts.config["quantization"]["cache_dir"] = "elsewhere";
  facts.config["quantization"]["later"] = 1;
  EXPECT_NO_THROW(check_same_options(saved, identity_json(TrainOptions(), facts), log));
  override_field(facts.lora, "target_modules=q_proj,v_proj");
  const Json first = saved_identity(facts);
  override_field(facts.lora, "target_modules=v_proj,q_proj");
  EXPECT_NO_THROW(check_same_options(first, identity_json(TrainOptions(), facts), log));
}

TEST(ResumeCheck, ACheckpointBehindTheLastStepIsRefused) {
  EXPECT_NO_THROW(check_within_run("out/checkpoint-4", 4, 4));
  EXPECT_ERROR(ConfigError, check_within_run("out/checkpoint-4", 4, 3),
               "out/checkpoint-4 is of step 4, but the run has 3 steps");
}

TEST(ResumeCheck, WhatShapesTheLossesIsWarnedOf) {
  const Json saved = write_fields(TrainOptions());
  for (const std::string key :
       {"learning_rate=1e-3", "weight_decay=0.1", "adam_beta2=0.9", "max_steps=7",
        "neftune_noise_alpha=5", "max_grad_norm=0.3", "loss_scaling.kind=off"}) {
    WarningLog log;
    check_same_options(saved, changed(key), log);
    ASSERT_EQ(log.warnings.size(), 1u) << key;
    const std::string name = key.substr(0, key.find_first_of("=."));
    EXPECT_NE(log.warnings[0].find(name), std::string::npos) << log.warnings[0];
  }
}

TEST(ResumeCheck, TheRestIsFree) {
  const Json saved = write_fields(TrainOptions());
  for (const std::string key :
       {"optim=adamw_8bit", "output_dir=elsewhere", "logging_steps=1", "save_steps=3",
        "eval_strategy=epoch", "resume=auto", "gradient_checkpointing=true", "report=false"}) {
    WarningLog log;
    check_same_options(saved, changed(key), log);
    EXPECT_TRUE(log.warnings.empty()) << key;
  }
  TrainOptions constant;
  constant.schedule.kind = ScheduleKind::kConstant;
  TrainOptions longer = constant;
  longer.max_steps = 1000;
  WarningLog log;
  check_same_options(write_fields(constant), write_fields(longer), log);
  EXPECT_TRUE(log.warnings.empty());  // a constant rate does not ask how long the run is
}

}  // namespace
}  // namespace qlora::trainer
