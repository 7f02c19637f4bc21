#include "model/inference_plan.h"

#include <gtest/gtest.h>

#include "model/disk_plan.h"
#include "model/memory_plan.h"
#include "tests/model/llama_shapes.h"
#include "tests/support/errors.h"

namespace qlora::model {
namespace {

const SchemeMemory& of(const std::vector<SchemeMemory>& schemes, WeightScheme scheme) {
  for (const SchemeMemory& memory : schemes) {
    if (memory.scheme == scheme) return memory;
  }
  throw std::runtime_error("no such scheme");
}

/// Parameters x bits / 8 in GB, as every table of model sizes has it.
TEST(InferencePlan, WeightsOf7b13bAnd70b) {
  const struct {
    int64_t parameters;
    double fp32, fp16, int8, int4;
  } golden[] = {{7'000'000'000, 28, 14, 7, 3.5},
                {13'000'000'000, 52, 26, 13, 6.5},
                {70'000'000'000, 280, 140, 70, 35}};
  for (const auto& row : golden) {
    const auto schemes = plan_inference({.parameters = row.parameters});
    const auto gigabytes = [&](WeightScheme scheme) {
      EXPECT_EQ(of(schemes, scheme).weights, of(schemes, scheme).formula);
      return static_cast<double>(of(schemes, scheme).weights) / 1e9;
    };
    EXPECT_DOUBLE_EQ(gigabytes(WeightScheme::kFp32), row.fp32);
    EXPECT_DOUBLE_EQ(gigabytes(WeightScheme::kFp16), row.fp16);
    EXPECT_DOUBLE_EQ(gigabytes(WeightScheme::kInt8), row.int8);
    EXPECT_DOUBLE_EQ(gigabytes(WeightScheme::kInt4), row.int4);
    EXPECT_DOUBLE_EQ(gigabytes(WeightScheme::kNf4), row.int4);
  }
}

TEST(InferencePlan, KeysAndValues) {
  // 2 x 32 layers x 32 heads x 128 x 2048 tokens x 2 bytes.
  EXPECT_EQ(kv_cache_bytes(testing::llama_7b(), 2048, 1, 16), 1073741824);
  EXPECT_EQ(kv_cache_bytes(testing::llama_7b(), 2048, 3, 8), 3 * 1073741824LL / 2);
  io::HfConfig grouped = testing::llama_7b();
  grouped.num_key_value_heads = 8;
  EXPECT_EQ(kv_cache_bytes(grouped, 2048, 1, 16), 1073741824 / 4);
}

TEST(InferencePlan, HeldWeightsCountScalesAnd16BitEmbeddings) {
  const io::HfConfig config = testing::llama_7b();
  const auto schemes = plan_inference({.config = config});
  const int64_t parameters = 6738415616, linears = 6476005376;
  const int64_t rest = 2 * (parameters - linears);
  EXPECT_EQ(of(schemes, WeightScheme::kFp16).weights, 2 * parameters);
  // Groups of 128: 16 bits of scale and as many of a zero point as of a weight.
  EXPECT_EQ(of(schemes, WeightScheme::kInt4).weights, linears / 2 + linears / 128 * 20 / 8 + rest);
  EXPECT_EQ(of(schemes, WeightScheme::kInt8).weights, linears + linears / 128 * 3 + rest);
  EXPECT_EQ(of(schemes, WeightScheme::kInt4).formula, parameters / 2);
  EXPECT_GT(of(schemes, WeightScheme::kInt4).overhead, program_bytes(PlanDevice::kCuda));
  EXPECT_EQ(of(schemes, WeightScheme::kInt4).kv_cache, 1073741824);
  EXPECT_EQ(of(schemes, WeightScheme::kInt4).total(),
            of(schemes, WeightScheme::kInt4).weights + of(schemes, WeightScheme::kInt4).kv_cache +
                of(schemes, WeightScheme::kInt4).overhead);
}

TEST(InferencePlan, SizesOutOfRangeAreRefused) {
  EXPECT_ERROR(ValueError, plan_inference({}), "0 parameters");
  EXPECT_ERROR(ValueError, plan_inference({.parameters = 1, .context_tokens = 0}), "context of 0");
  EXPECT_ERROR(ValueError, plan_inference({.parameters = 1, .batch = -1}), "batch of -1");
  EXPECT_ERROR(ValueError, plan_inference({.parameters = 1, .context_tokens = int64_t{1} << 40}),
               "at most");
  EXPECT_ERROR(ValueError, plan_inference({.parameters = 1, .kv_bits = 5}), "5 bits");
  EXPECT_ERROR(
      ValueError,
      plan_inference({.config = testing::llama_7b(), .context_tokens = 1 << 30, .batch = 1 << 30}),
      "smaller context or batch");
}

class Recommendations : public ::testing::Test {
 protected:
  Recommendation at(int64_t gigabytes, ServingGoal goal = ServingGoal::kBalanced) const {
    return recommend_scheme(schemes_, gigabytes * 1'000'000'000, goal);
  }
  // 13.5 GB in 16 bits.
  std::vector<SchemeMemory> schemes_ = plan_inference({.config = testing::llama_7b()});
};

TEST_F(Recommendations, TwiceTheModelKeeps16Bits) {
  for (const ServingGoal goal : {ServingGoal::kBalanced, ServingGoal::kAccuracy,
                                 ServingGoal::kMemory, ServingGoal::kSpeed}) {
    EXPECT_EQ(at(27, goal).scheme, WeightScheme::kFp16);
  }
  EXPECT_SAYS(at(80).reason, "at least twice");
  EXPECT_NE(at(26).scheme, WeightScheme::kFp16);  // it would fit, without room to spare
}

TEST_F(Recommendations, AccuracyTakes8BitsAndMemory4) {
  EXPECT_EQ(at(16).scheme, WeightScheme::kInt8);
  EXPECT_EQ(at(16).name, "W8A8");
  EXPECT_EQ(at(16, ServingGoal::kAccuracy).scheme, WeightScheme::kInt8);
  EXPECT_EQ(at(16, ServingGoal::kMemory).scheme, WeightScheme::kInt4);
  EXPECT_EQ(at(16, ServingGoal::kSpeed).name, "W4A16, AWQ");
}

TEST_F(Recommendations, Where8BitsDoNotFitAccuracyTakesGptqInActivationOrder) {
  EXPECT_EQ(at(8).name, "W4A16, AWQ");
  const Recommendation accurate = at(8, ServingGoal::kAccuracy);
  EXPECT_EQ(accurate.scheme, WeightScheme::kInt4);
  EXPECT_SAYS(accurate.name, "desc_act");
  EXPECT_SAYS(accurate.command, "desc_act=true");
}

TEST_F(Recommendations, Below4BitsTheLossIsNamedAndAtLastNothingFits) {
  const Recommendation three = at(5);
  EXPECT_EQ(three.scheme, WeightScheme::kInt3);
  EXPECT_SAYS(three.reason, "cost much accuracy");
  EXPECT_EQ(at(4).scheme, WeightScheme::kInt2);
  const Recommendation none = at(2);
  EXPECT_FALSE(none.scheme.has_value());
  EXPECT_SAYS(none.reason, "smaller context");
  EXPECT_EQ(none.command, "");
}

TEST(DiskPlan, CheckpointsHoldAdapterMastersAndStates) {
  PlanShape shape{.config = testing::llama_7b()};
  const int64_t trained = 39976960;
  DiskPlan plan = plan_disk(shape, {.saved = 10, .save_total_limit = 2});
  EXPECT_EQ(plan.adapter, 2 * trained);
  EXPECT_EQ(plan.checkpoint, 2 * trained + 4 * trained + 2 * trained + trained / 32);
  EXPECT_EQ(plan.most_checkpoints, 3);  // the new one is complete before the oldest goes
  EXPECT_EQ(plan.total(), 3 * plan.checkpoint + plan.adapter);
  EXPECT_EQ(
      plan_disk(shape, {.saved = 10, .save_total_limit = 2, .keeps_best = true}).most_checkpoints,
      4);
  EXPECT_EQ(plan_disk(shape, {.saved = 2, .save_total_limit = 2}).most_checkpoints, 2);
  EXPECT_EQ(plan_disk(shape, {.saved = 10}).most_checkpoints, 10);
  EXPECT_EQ(plan_disk(shape, {.save_total_limit = 1}).most_checkpoints, 2);
  EXPECT_FALSE(plan_disk(shape, {}).most_checkpoints.has_value());
  EXPECT_EQ(plan_disk(shape, {}).total(), plan.checkpoint + plan.adapter);
  EXPECT_EQ(plan_disk(shape, {.saves = false}).total(), plan.adapter);
  shape.lora.adapter_dtype = lora::AdapterDtype::kFloat32;
  EXPECT_EQ(plan_disk(shape, {}).adapter, 4 * trained);
}

TEST(DiskPlan, CacheAndExport) {
  PlanShape shape{.config = testing::llama_7b()};
  const DiskPlan plan = plan_disk(shape, {.keeps_cache = true, .saves = false, .export_bits = 4});
  EXPECT_EQ(plan.cache, frozen_matrix_bytes(shape, planned_linears(shape)));
  EXPECT_EQ(plan.exported, exported_bytes(shape.config, 4, 128));
  EXPECT_EQ(exported_bytes(shape.config, 16, 128), 2 * 6738415616);
  shape.load_in_4bit = false;
  EXPECT_EQ(plan_disk(shape, {.keeps_cache = true}).cache, 0);
}

}  // namespace
}  // namespace qlora::model
