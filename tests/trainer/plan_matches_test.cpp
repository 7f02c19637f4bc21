// The plan's formulas against what the decoder and the optimizers hold.
#include <ATen/ops/empty.h>
#include <gtest/gtest.h>

#include "core/out_of_memory.h"
#include "model/decoder.h"
#include "model/plan_shape.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_checkpoint.h"
#include "trainer/checkpoint.h"
#include "trainer/paged_adamw8bit.h"

namespace qlora::testing {
namespace {

struct HeldCase {
  bool in_4bit = true;
  quant::Nf4Options four_bit;
  model::ComputeDtype dtype = model::ComputeDtype::kFloat32;
  int64_t r = 16;
  std::vector<std::string> targets = {"all-linear"};
};

class PlanMatches : public ::testing::TestWithParam<HeldCase> {
 protected:
  static void SetUpTestSuite() {
    folder_ = new TemporaryFolder();
    // Widths at which some adapters have more than 4,096 numbers and some blocks of 64 cross rows.
    write_tiny_checkpoint(*folder_ / "model", {.layers = 3, .width = 96, .mlp_width = 296});
  }
  static void TearDownTestSuite() { delete folder_; }
  static inline TemporaryFolder* folder_ = nullptr;
};

TEST_P(PlanMatches, BaseAdaptersAndStates) {
  const HeldCase& held = GetParam();
  NullLog log;
  model::Decoder decoder = model::Decoder::load({.model_path = (*folder_ / "model").string(),
                                                 .compute_dtype = held.dtype,
                                                 .device = model::DeviceChoice::kCpu,
                                                 .load_in_4bit = held.in_4bit,
                                                 .cache_dir = ""},
                                                held.four_bit, log);
  const lora::LoraOptions lora{.r = held.r, .target_modules = held.targets};
  decoder.add_adapters(lora, 1);
  const bool is_fp32 = held.dtype == model::ComputeDtype::kFloat32;
  const model::PlanShape shape{.config = decoder.config(),
                               .load_in_4bit = held.in_4bit,
                               .four_bit = held.four_bit,
                               .lora = lora,
                               .compute_bytes = is_fp32 ? 4 : 2};
  const auto linears = model::planned_linears(shape);
  EXPECT_EQ(model::base_parameters(shape.config), decoder.parameter_count());
  EXPECT_EQ(model::adapter_parameters(linears), decoder.trainable_parameter_count());
  EXPECT_EQ(model::frozen_matrix_bytes(shape, linears) + model::embedding_bytes(shape),
            decoder.base_bytes());
  const trainer::PagedAdamW8bit optimizer(trainer::adapter_parameters(decoder), {});
  EXPECT_EQ(model::optimizer_bytes(shape, linears), optimizer.state_bytes());
}

INSTANTIATE_TEST_SUITE_P(
    Forms, PlanMatches,
    ::testing::Values(HeldCase{}, HeldCase{.four_bit = {.double_quant = false}},
                      HeldCase{.four_bit = {.block_size = 128}, .r = 64},
                      HeldCase{.in_4bit = false},
                      HeldCase{.in_4bit = false, .dtype = model::ComputeDtype::kBFloat16},
                      HeldCase{.dtype = model::ComputeDtype::kBFloat16,
                               .targets = {"q_proj", "down_proj"}}));

TEST(PlanMatchesLibtorch, ItsAllocatorsErrorIsKnown) {
  constexpr int64_t kBytes = int64_t{1} << 52;
  try {
    (void)at::empty({kBytes}, torch::TensorOptions(torch::kUInt8));
    FAIL() << "4 PB were allocated";
  } catch (const std::exception& error) {
    const auto problem = as_out_of_memory(error);
    ASSERT_TRUE(problem.has_value()) << error.what();
    EXPECT_FALSE(problem->is_device);
    EXPECT_EQ(problem->wanted_bytes, static_cast<uint64_t>(kBytes)) << error.what();
  }
}

}  // namespace
}  // namespace qlora::testing
