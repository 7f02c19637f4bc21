// The plan of a run against its measured peak, on the CPU. bench/memory/measure.py has larger
// shapes.
#include <filesystem>
#include <span>

#include "core/rng.h"
#include "io/safetensors.h"
#include "tests/cli/fixture.h"

namespace qlora::testing {
namespace {

using Json = nlohmann::ordered_json;

struct MeasuredCase {
  const char* name;
  TinyCheckpoint model;
  int64_t rows, tokens;
  Json settings;  // merged into the run's
};

void PrintTo(const MeasuredCase& c, std::ostream* out) {
  *out << c.name;
}

class MeasuredPlan : public ::testing::TestWithParam<MeasuredCase> {};

void write_tokens(const std::filesystem::path& file, int64_t rows, int64_t tokens) {
  Rng rng(3);
  std::vector<int32_t> ids(static_cast<size_t>(rows * tokens));
  for (int32_t& id : ids) id = static_cast<int32_t>(rng.uniform() * 256);
  const io::TensorView tensor = {.name = "train",
                                 .dtype = io::DType::kI32,
                                 .shape = {rows, tokens},
                                 .bytes = std::as_bytes(std::span(ids))};
  io::write_safetensors(file, std::span(&tensor, 1));
}

TEST_P(MeasuredPlan, IsWithin10PercentOfThePeak) {
  const MeasuredCase& c = GetParam();
  const TemporaryFolder folder;
  write_tiny_checkpoint(folder / "model", c.model);
  write_tokens(folder / "ids.safetensors", 3 * c.rows, c.tokens);
  Json config = {
      {"model_name_or_path", (folder / "model").string()},
      {"output_dir", (folder / "out").string()},
      {"threads", 1},
      {"data",
       {{"tokens", {{"file", (folder / "ids.safetensors").string()}}}, {"max_length", c.tokens}}},
      {"per_device_train_batch_size", c.rows},
      {"max_steps", 3},
      {"save_strategy", "no"},
      {"report", false}};
  config.merge_patch(c.settings);
  write_text(folder / "run.json", config.dump(1));

  const ProgramResult plan = qlora({"plan", (folder / "run.json").string(), "--json"});
  ASSERT_EQ(plan.exit_code, 0) << plan.err;
  const ProgramResult run =
      qlora({"train", (folder / "run.json").string(), "--json"}, {.timeout_seconds = 900});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const double planned = nlohmann::json::parse(plan.out).at("total_bytes");
  const double measured = nlohmann::json::parse(run.out).at("peak_rss_bytes");
  EXPECT_NEAR(planned / measured, 1.0, 0.1) << plan.out;
}

const TinyCheckpoint kWide = {
    .layers = 6, .width = 512, .mlp_width = 1408, .heads = 8, .kv_heads = 4, .max_positions = 2048};
const TinyCheckpoint kDeep = {
    .layers = 24, .width = 256, .mlp_width = 704, .heads = 8, .kv_heads = 8, .max_positions = 2048};

INSTANTIATE_TEST_SUITE_P(
    Shapes, MeasuredPlan,
    ::testing::Values(MeasuredCase{"wide", kWide, 4, 512, {{"compute_dtype", "fp32"}}},
                      MeasuredCase{"deep checkpointed",
                                   kDeep,
                                   16,
                                   256,
                                   {{"gradient_checkpointing", true}, {"compute_dtype", "fp32"}}},
                      MeasuredCase{"long accumulated",
                                   kDeep,
                                   1,
                                   2048,
                                   {{"gradient_accumulation_steps", 2},
                                    {"optim", "adamw_torch"},
                                    {"lora", {{"r", 64}}},
                                    {"compute_dtype", "fp32"}}}));

}  // namespace
}  // namespace qlora::testing
