// Steps whose loss is not finite: skipped and counted, too many of them stop the run or roll it
// back.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "core/error.h"
#include "io/safetensors.h"
#include "tests/support/errors.h"
#include "tests/trainer/tiny_run.h"

namespace qlora::trainer {
namespace {

namespace fs = std::filesystem;
using testing::EventLog;
using testing::TinyRun;

constexpr int32_t kPoison = 255;
constexpr uint16_t kOne = 0x3F80, kHuge = 0x7149;  // in BF16: 1 and 1e30

/// Sets the last number of every row, [N, 64] in BF16.
void set_last_column(std::vector<std::byte>& matrix, uint16_t value) {
  constexpr size_t kRowBytes = 64 * sizeof(value);
  for (size_t end = kRowBytes; end <= matrix.size(); end += kRowBytes) {
    std::memcpy(matrix.data() + end - sizeof(value), &value, sizeof(value));
  }
}

/// The parity fixture's untied model with a token whose attention scores overflow: it alone has
/// something in the last place of its embedding, and the first block's queries and keys take that
/// 1e30 fold.
void write_poisoned_model(const fs::path& folder) {
  const fs::path source = fs::path(QLORA_SOURCE_DIR) / "tests/fixtures/parity/models/plain";
  fs::create_directories(folder);
  fs::copy_file(source / "config.json", folder / "config.json");
  const io::SafetensorsReader reader(source / "model.safetensors");
  std::vector<io::TensorView> tensors = reader.tensors();
  std::map<std::string, std::vector<std::byte>> changed;
  for (io::TensorView& tensor : tensors) {
    const bool is_embedding = tensor.name == "model.embed_tokens.weight";
    const bool is_score = tensor.name == "model.layers.0.self_attn.q_proj.weight" ||
                          tensor.name == "model.layers.0.self_attn.k_proj.weight";
    if (!is_embedding && !is_score) continue;
    auto& bytes = changed[tensor.name];
    bytes.assign(tensor.bytes.begin(), tensor.bytes.end());
    set_last_column(bytes, is_score ? kHuge : 0);
    if (is_embedding) {
      std::vector<std::byte> row(bytes.size() / static_cast<size_t>(tensor.shape[0]));
      set_last_column(row, kOne);
      std::copy(row.begin(), row.end(), bytes.begin() + static_cast<int64_t>(kPoison * row.size()));
    }
    tensor.bytes = bytes;
  }
  ASSERT_EQ(changed.size(), 3u);
  io::write_safetensors(folder / "model.safetensors", tensors);
}

class PoisonedTrain : public ::testing::Test {
 protected:
  PoisonedTrain() {
    fs::remove_all(run.folder / "model");
    write_poisoned_model(run.folder / "model");
    run.options.batching = {.per_device_train_batch_size = 1,
                            .gradient_accumulation_steps = 1,
                            .packing = false,
                            .shuffle = false};
    run.train_set = testing::tiny_examples(10, 5);
  }
  void poison(int64_t example) { run.train_set.examples[example].tokens[0] = kPoison; }

  TinyRun run;
  EventLog log;
};

TEST_F(PoisonedTrain, ANanBatchIsSkippedAndCounted) {
  poison(2);
  poison(6);
  const TrainResult result = run.run(log);
  EXPECT_EQ(result.skipped_steps, 2);
  const auto steps = log.of("step");
  ASSERT_EQ(steps.size(), 10u);
  for (size_t i = 0; i < steps.size(); ++i) {
    EXPECT_EQ(steps[i].at("applied").get<bool>(), i != 2 && i != 6) << i;
    EXPECT_EQ(std::isfinite(steps[i].at("loss").get<double>()), i != 2 && i != 6) << i;
  }
  EXPECT_EQ(log.warnings.size(), 2u);
  for (const auto* lines : {&log.warnings, &log.lives}) {
    for (const std::string& line : *lines) EXPECT_EQ(line.find("-nan"), std::string::npos) << line;
  }
}

TEST_F(PoisonedTrain, ARunWithoutAnAppliedStepFailsAndLeavesNoAdapter) {
  for (int64_t example = 0; example < 10; ++example) poison(example);
  EXPECT_ERROR(ValueError, run.run(log), "not one of 10 steps was applied");
  EXPECT_FALSE(fs::exists(run.run_dir() / "adapter_model.safetensors"));
  EXPECT_TRUE(log.of("finish").empty());
}

TEST_F(PoisonedTrain, AGradientThatIsFiniteButTooLargeIsToldAsThat) {
  run.facts.lora.lora_alpha = 1e37;
  run.options.watchdog.max_skipped_steps = 2;
  const std::string error = testing::message_of<ValueError>([&] { run.run(log); });
  EXPECT_SAYS(error, "2 steps in a row were skipped");
  EXPECT_SAYS(error, "a norm below 1e+18");
  EXPECT_TRUE(std::isfinite(log.of("step")[0].at("loss").get<double>()));
}

TEST_F(PoisonedTrain, TooManyInARowStopTheRunAndNothingBadIsSaved) {
  for (const int64_t example : {4, 5, 6, 7}) poison(example);
  run.options.watchdog.max_skipped_steps = 3;
  run.options.save = {.strategy = Strategy::kSteps, .steps = 2};
  EXPECT_THROW(run.run(log), ValueError);
  EXPECT_EQ(log.of("step").size(), 7u);
  EXPECT_FALSE(fs::exists(run.run_dir() / "adapter_model.safetensors"));
  const io::SafetensorsReader saved(run.run_dir() / "checkpoint-6" / "optimizer.safetensors");
  for (const io::TensorView& tensor : saved.tensors()) {
    if (tensor.dtype != io::DType::kF32) continue;
    std::vector<float> values(tensor.element_count());
    io::read_f32(tensor, 0, tensor.element_count(), values.data());
    for (const float value : values) ASSERT_TRUE(std::isfinite(value)) << tensor.name;
  }
}

TEST_F(PoisonedTrain, RollBackReturnsToTheCheckpointAndGoesOnBehindTheTrouble) {
  poison(4);
  poison(5);
  run.options.watchdog = {.max_skipped_steps = 2, .action = WatchdogAction::kRollBack};
  run.options.save = {.strategy = Strategy::kSteps, .steps = 3};
  const TrainResult result = run.run(log);
  EXPECT_EQ(result.steps, 10);
  const auto rollbacks = log.of("rollback");
  ASSERT_EQ(rollbacks.size(), 1u);
  EXPECT_EQ(rollbacks[0].at("step"), 6);
  EXPECT_EQ(rollbacks[0].at("to_step"), 3);

  // From there it is the run that was never at step 4: the same as one that skips these examples.
  EventLog skipping;
  run.use_run_dir("skipping");
  run.options.watchdog = {};
  run.run(skipping);
  // Step 4 (before the poison) was undone, so that the losses differ from step 7 on.
  EXPECT_EQ(log.losses().at(4), skipping.losses().at(4));
  EXPECT_NE(log.losses().at(7), skipping.losses().at(7));
}

}  // namespace
}  // namespace qlora::trainer
