#include <gtest/gtest.h>

#include <string>
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
