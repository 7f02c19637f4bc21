// The loop against ten steps of torch's AdamW, transformers' schedules and peft's adapters:
// tests/fixtures/parity/training.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <string>

#include "io/safetensors.h"
#include "lora/peft_files.h"
#include "tests/trainer/tiny_run.h"

namespace qlora::trainer {
namespace {

namespace fs = std::filesystem;
using testing::EventLog;

const fs::path kParity = fs::path(QLORA_SOURCE_DIR) / "tests/fixtures/parity";

nlohmann::json read_json(const fs::path& path) {
  std::ifstream file(path);
  return nlohmann::json::parse(file);
}

std::vector<int32_t> integers(const io::SafetensorsReader& reader, const char* name) {
  const io::TensorView& view = reader.at(name);
  const auto* first = reinterpret_cast<const int32_t*>(view.bytes.data());
  return {first, first + view.element_count()};
}

/// The fixture's sequences: its targets are the next tokens, or carry no loss.
data::ExampleSet read_examples(const fs::path& file) {
  const io::SafetensorsReader reader(file);
  const auto tokens = integers(reader, "tokens"), targets = integers(reader, "targets");
  const auto starts = integers(reader, "sequence_starts");
  data::ExampleSet set{.name = "fixture", .max_length = 64, .examples = {}, .counts = {}};
  for (size_t s = 0; s + 1 < starts.size(); ++s) {
    data::Example example;
    for (int32_t t = starts[s]; t < starts[s + 1]; ++t) {
      example.tokens.push_back(tokens[t]);
      example.learn.push_back(t > starts[s] && targets[t - 1] != kIgnoreTarget);
    }
    set.examples.push_back(std::move(example));
  }
  return set;
}

class TrainParity : public ::testing::TestWithParam<std::string> {};

TEST_P(TrainParity, EqualsThePeersStepForStep) {
  set_thread_count(1);
  const fs::path folder = kParity / "training" / GetParam();
  const nlohmann::json want = read_json(folder / "reference.json");
  const testing::TemporaryFolder out;
  const data::ExampleSet examples = read_examples(folder / "data.safetensors");
  model::Decoder model = testing::load_fp32(kParity / "models" / want.at("base").get<std::string>(),
                                            GetParam().starts_with("nf4"));
  model.load_adapter((folder / "init_adapter").string(), lora::AdapterDtype::kFloat32);

  TrainOptions options;
  options.output_dir = (out / "run").string();
  options.max_steps = want.at("steps");
  options.batching = {.per_device_train_batch_size = want.at("sequences_per_micro_batch"),
                      .gradient_accumulation_steps = want.at("micro_batches"),
                      .packing = false,
                      .shuffle = false};
  options.optimizer = {.kind = OptimizerKind::kAdamW32bit,
                       .learning_rate = want.at("lr"),
                       .weight_decay = want.at("weight_decay")};
  const std::string schedule = want.at("schedule");
  options.schedule.kind = schedule == "linear"   ? ScheduleKind::kLinear
                          : schedule == "cosine" ? ScheduleKind::kCosine
                                                 : ScheduleKind::kConstant;
  options.schedule.warmup_steps = want.at("warmup_steps");
  options.max_gradient_norm = want.at("clip").is_null() ? 0.0 : want.at("clip").get<double>();
  options.save.strategy = Strategy::kNo;
  RunFacts facts;
  facts.lora.r = 4;
  facts.lora.lora_alpha = 8;
  EventLog log;
  const TrainResult result = train(model, examples, nullptr, options, facts, log);

  const auto steps = log.of("step");
  ASSERT_EQ(steps.size(), want.at("losses").size());
  EXPECT_EQ(result.skipped_steps, 0);
  for (size_t i = 0; i < steps.size(); ++i) {
    // FP32 on both sides: sums in another order, carried through up to ten updates.
    EXPECT_NEAR(steps[i].at("loss").get<double>(), want.at("losses")[i].get<double>(), 2e-4) << i;
    const double norm = want.at("gradient_norms")[i];
    EXPECT_NEAR(steps[i].at("grad_norm").get<double>(), norm, 2e-3 * norm) << i;
    EXPECT_DOUBLE_EQ(steps[i].at("learning_rate").get<double>(),
                     want.at("learning_rates")[i].get<double>())
        << i;
  }
  const auto mine = lora::read_peft_adapter(out / "run");
  const auto theirs = lora::read_peft_adapter(folder / "final_adapter");
  ASSERT_EQ(mine.modules.size(), theirs.modules.size());
  for (const auto& [name, matrices] : theirs.modules) {
    // Where a gradient is all rounding, Adam still moves by up to the rate: no bound per element.
    const auto& own = mine.modules.at(name);
    const double error = (own.b - matrices.b).norm().item<double>();
    EXPECT_LT(error, 0.02 * matrices.b.norm().item<double>() + 1e-6) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(Runs, TrainParity,
                         ::testing::Values("constant", "linear", "cosine_tied", "nf4_constant"));

// ---------------------------------------------------------------------- families of models

/// The fixture's rows [n, T]: its targets are the next tokens, or carry no loss.
data::ExampleSet read_rows(const io::SafetensorsReader& reader) {
  const auto tokens = integers(reader, "step_tokens"), targets = integers(reader, "step_targets");
  const int64_t rows = reader.at("step_tokens").shape[0],
                length = reader.at("step_tokens").shape[1];
  data::ExampleSet set{.name = "fixture", .max_length = length, .examples = {}, .counts = {}};
  for (int64_t r = 0; r < rows; ++r) {
    data::Example example;
    for (int64_t t = r * length; t < (r + 1) * length; ++t) {
      const auto i = static_cast<size_t>(t);
      example.tokens.push_back(tokens[i]);
      example.learn.push_back(t > r * length && targets[i - 1] != kIgnoreTarget);
    }
    set.examples.push_back(std::move(example));
  }
  return set;
}

std::vector<std::string> family_names() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(kParity / "families")) {
    names.push_back(entry.path().filename());
  }
  return names;
}

class FamilyRun : public ::testing::TestWithParam<std::string> {};

TEST_P(FamilyRun, FirstFiveLossesEqualPeft) {
  set_thread_count(1);
  const fs::path folder = kParity / "families" / GetParam();
  const nlohmann::json want = read_json(folder / "reference.json");
  const io::SafetensorsReader reference(folder / "reference.safetensors");
  const testing::TemporaryFolder out;
  const data::ExampleSet examples = read_rows(reference);
  model::Decoder model = testing::load_fp32(folder, /*in_4bit=*/false);
  model.load_adapter((folder / "init_adapter").string(), lora::AdapterDtype::kFloat32);

  TrainOptions options;
  options.output_dir = (out / "run").string();
  options.max_steps = static_cast<int64_t>(want.at("losses").size());
  options.batching = {.per_device_train_batch_size = 2,
                      .gradient_accumulation_steps = 1,
                      .packing = false,
                      .shuffle = false};
  options.optimizer = {.kind = OptimizerKind::kAdamW32bit,
                       .learning_rate = want.at("learning_rate"),
                       .weight_decay = 0};
  options.schedule.kind = ScheduleKind::kConstant;
  options.schedule.warmup_steps = 0;
  options.max_gradient_norm = 0.0;
  options.save.strategy = Strategy::kNo;
  RunFacts facts;
  EventLog log;
  train(model, examples, nullptr, options, facts, log);

  const auto steps = log.of("step");
  ASSERT_EQ(steps.size(), want.at("losses").size());
  for (size_t i = 0; i < steps.size(); ++i) {
    EXPECT_NEAR(steps[i].at("loss").get<double>(), want.at("losses")[i].get<double>(), 2e-3) << i;
  }
  // Something was learnt, so that equal losses say something.
  EXPECT_GT(std::abs(want.at("losses")[0].get<double>() - want.at("losses")[4].get<double>()),
            1e-2);
}

INSTANTIATE_TEST_SUITE_P(Families, FamilyRun, ::testing::ValuesIn(family_names()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace qlora::trainer
