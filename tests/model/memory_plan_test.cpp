// The plan of a run against counts by hand, published numbers, and itself under changed settings.
// That it equals what the program holds and measures: plan_matches_test.cpp,
// measured_plan_test.cpp.
#include "model/memory_plan.h"

#include <gtest/gtest.h>

#include "model/activation_plan.h"
#include "tests/model/llama_shapes.h"
#include "tests/support/errors.h"

namespace qlora::model {
namespace {

using testing::full_batch;

PlanShape shape_of(io::HfConfig config, MicroBatch batch = full_batch(1, 512)) {
  return {.config = std::move(config), .train = batch};
}

TEST(PlanShape, CountsOfA7bWithRank16) {
  const PlanShape shape = shape_of(testing::llama_7b());
  EXPECT_EQ(base_parameters(shape.config), 6738415616);
  const auto linears = planned_linears(shape);
  ASSERT_EQ(linears.size(), 32U * 7);
  EXPECT_EQ(adapter_parameters(linears), 39976960);  // PEFT's count for r 16 on all linears
  EXPECT_EQ(linears[6].module, "model.layers.0.mlp.down_proj");
  EXPECT_EQ(linears[6].rows, 4096);
  EXPECT_EQ(linears[6].cols, 11008);
}

TEST(PlanShape, AdaptersFollowTargetsAndPatterns) {
  PlanShape shape = shape_of(testing::llama_7b());
  shape.lora.target_modules = {"q_proj", "v_proj"};
  shape.lora.rank_pattern = {{"layers.0.self_attn.q_proj", 4}};
  // Two matrices [4096, 4096] a block, all of rank 16 but one.
  EXPECT_EQ(adapter_parameters(planned_linears(shape)), (2 * 32 - 1) * 16 * 8192 + 4 * 8192);
  shape.lora.enabled = false;
  EXPECT_EQ(adapter_parameters(planned_linears(shape)), 0);
  shape.lora = {};
  shape.lora.target_modules = {"no_proj"};
  EXPECT_ERROR(ConfigError, planned_linears(shape), "no_proj");
}

TEST(PlanShape, FourBitsWithDoubleQuantizationAreThePapers) {
  const int64_t weights = int64_t{64} * 256 * 1000;
  EXPECT_EQ(four_bit_bytes(weights, {}), weights / 2 + 256000 + 4 * 1000);
  const double bits =
      8.0 * static_cast<double>(four_bit_bytes(weights, {})) / static_cast<double>(weights);
  EXPECT_NEAR(bits - 4, 0.127, 0.0005);  // arXiv:2305.14314, section 3: 8/64 + 32/(64 * 256)
  EXPECT_EQ(four_bit_bytes(weights, {.double_quant = false}), weights / 2 + 4 * 256000);
  EXPECT_EQ(four_bit_bytes(65, {}), 33 + 2 + 4);  // odd counts and begun blocks round up
}

TEST(PlanShape, PackedBasesTakeTheirBitsAndScales) {
  // 16 rows of 128 columns in groups of 64: FP16 scale and 8-bit zero point for each.
  EXPECT_EQ(packed_affine_bytes(16, 128, 4, 64), 16 * (64 + 2 * 3));
  EXPECT_EQ(packed_affine_bytes(16, 128, 8, -1), 16 * (128 + 3));
  EXPECT_EQ(packed_affine_bytes(16, 100, 3, 64), 16 * (50 + 2 * 3));
  PlanShape shape = shape_of(testing::llama_7b());
  const auto linears = planned_linears(shape);
  const int64_t nf4 = frozen_matrix_bytes(shape, linears);
  shape.quantized = io::QuantizedForm{.form = io::PackedForm::kBnbFourBit};
  EXPECT_EQ(frozen_matrix_bytes(shape, linears), nf4);
  shape.quantized = io::QuantizedForm{.form = io::PackedForm::kFloatQuantized, .bits = 8};
  EXPECT_GT(frozen_matrix_bytes(shape, linears), nf4 * 3 / 2);
  shape.quantized = io::QuantizedForm{.form = io::PackedForm::kBnbInt8, .bits = 8};
  EXPECT_GT(frozen_matrix_bytes(shape, linears), nf4 * 3 / 2);
  shape.quantized = io::QuantizedForm{.form = io::PackedForm::kGptq, .bits = 4, .group_size = 128};
  EXPECT_NEAR(static_cast<double>(frozen_matrix_bytes(shape, linears)), static_cast<double>(nf4),
              0.02 * static_cast<double>(nf4));
}

/// Settings of the paper (section 5 and appendix B.2, G): NF4 with double quantization, rank 64 on
/// all linears, batch 1, length 512, gradient checkpointing. Its figure 6 counts no CUDA context.
TEST(MemoryPlan, LlamaShapesAreWithin15PercentOfTheQloraPaper) {
  const struct {
    io::HfConfig config;
    double paper_gb;
  } cases[] = {
      {testing::llama_7b(), 6.9}, {testing::llama_33b(), 24.7}, {testing::llama_65b(), 45.0}};
  for (const auto& [config, paper_gb] : cases) {
    PlanShape shape = shape_of(config);
    shape.lora.r = 64;
    shape.gradient_checkpointing = true;
    shape.device = PlanDevice::kCuda;
    const double gb = static_cast<double>(plan_memory(shape).total()) / 1e9;
    EXPECT_NEAR(gb, paper_gb, 0.15 * paper_gb) << config.num_hidden_layers << " blocks";
  }
}

TEST(MemoryPlan, PartsAreTheFormulas) {
  PlanShape shape = shape_of(testing::llama_7b());
  shape.gradient_checkpointing = true;
  const MemoryPlan plan = plan_memory(shape);
  const int64_t trained = 39976960;
  EXPECT_EQ(plan.peak, PeakPhase::kStep);
  EXPECT_EQ(plan.bytes(MemoryKind::kAdapters), 4 * trained);
  EXPECT_EQ(plan.bytes(MemoryKind::kGradients), 4 * trained);
  // Every matrix of adapters is a multiple of 256 numbers: 2 bytes and 8/256 each.
  EXPECT_EQ(plan.bytes(MemoryKind::kOptimizer), 2 * trained + trained / 32);
  EXPECT_EQ(plan.bytes(MemoryKind::kEmbedding), 2 * 2 * 32000 * 4096 + 4 * 65 * 4096);
  EXPECT_EQ(plan.bytes(MemoryKind::kLogits), 256 * 2 * 32000);  // 16 MB hold 262 rows
  EXPECT_EQ(plan.bytes(MemoryKind::kWorkspace), 2 * 4096 * 11008 + 2 * 32 * 256 * 512 * 2);
  EXPECT_EQ(plan.bytes(MemoryKind::kProgram), program_bytes(PlanDevice::kCpu));
  int64_t sum = 0;
  for (const MemoryPart& part : plan.parts) sum += part.bytes;
  EXPECT_EQ(plan.total(), sum);
}

TEST(MemoryPlan, SmallAdaptersKeep32BitStates) {
  PlanShape shape = shape_of(testing::llama_7b());
  shape.lora.r = 1;  // A [1, 11008] of the down projections alone is large enough for 8 bits: and
                     // the B [11008, 1] of gate and up, and those of 4,096
  int64_t small = 0, large = 0, blocks = 0;
  for (const PlannedLinear& l : planned_linears(shape)) {
    for (const int64_t numbers : {l.rows, l.cols}) {
      (numbers < 4096 ? small : large) += numbers;
      if (numbers >= 4096) blocks += (numbers + 255) / 256;
    }
  }
  EXPECT_EQ(small, 0);
  EXPECT_EQ(optimizer_bytes(shape, planned_linears(shape)), 2 * large + 8 * blocks);
  shape.config = testing::llama_config(2048, 5504, 2, 16);
  const auto linears = planned_linears(shape);
  // Of one block: 2048 numbers ten times... all but the 5,504 of gate, up and down.
  EXPECT_EQ(optimizer_bytes(shape, linears), 2 * (11 * 2048 * 8 + 3 * (2 * 5504 + 8 * 22)));
  shape.states = OptimizerStates::k32bit;
  EXPECT_EQ(optimizer_bytes(shape, linears), 8 * adapter_parameters(linears));
}

TEST(MemoryPlan, CheckpointingTradesKeptActivationsForOneBlock) {
  PlanShape shape = shape_of(testing::llama_7b(), full_batch(4, 512));
  const auto adapters = block_adapters(shape, planned_linears(shape));
  const BlockActivations block = block_activations(shape, shape.train, adapters.front());
  const int64_t stream = stream_bytes(shape, shape.train);
  EXPECT_EQ(stream, int64_t{4} * 2048 * 4096);
  const int64_t head = loss_head_bytes(shape, shape.train) - logits_bytes(shape, shape.train);
  EXPECT_EQ(plan_memory(shape).bytes(MemoryKind::kActivations),
            32 * block.kept + std::max(block.backward, head));
  shape.gradient_checkpointing = true;
  EXPECT_EQ(plan_memory(shape).bytes(MemoryKind::kActivations),
            32 * stream + block.kept + block.backward);
}

/// Counted tensor by tensor: C 64, F 128, 4 heads of 16, 2 kv heads, R 4 on all linears, e 4, T 32.
TEST(MemoryPlan, ABlockKeepsWhatItsBackwardReads) {
  PlanShape shape = shape_of(testing::llama_config(64, 128, 1, 4), full_batch(1, 32));
  shape.config.num_key_value_heads = 2;
  shape.compute_bytes = 4;
  shape.lora.r = 4;
  const auto adapters = block_adapters(shape, planned_linears(shape)).front();
  EXPECT_EQ(adapters.ranks, 7 * 4);
  EXPECT_EQ(adapters.parameters, 4 * ((64 + 64) + (32 + 64) * 2 + (64 + 64) + (64 + 128) * 3));
  const int64_t t = 32;
  const int64_t residuals = 2 * t * 64 * 4, scales = 2 * t * 4, logsumexp = t * 4 * 4;
  const int64_t norms = 2 * t * 64 * 4, attention = t * (64 + 32 + 32 + 64) * 4;
  const int64_t gate_up_product = 3 * t * 128 * 4, u = t * 28 * 4;
  const BlockActivations block = block_activations(shape, shape.train, adapters);
  EXPECT_EQ(block.kept, residuals + scales + logsumexp + norms + attention + gate_up_product + u +
                            4 * adapters.parameters);
  EXPECT_EQ(block.backward, t * 64 * 4 + 2 * t * 128 * 4);
  // Tokens are rounded up to 32.
  EXPECT_EQ(block_activations(shape, full_batch(1, 33), adapters).backward, 2 * block.backward);
}

TEST(MemoryPlan, AFewTokensLeaveLoadingAsThePeakAndManyTheEvaluation) {
  PlanShape shape = shape_of(testing::llama_7b(), full_batch(1, 8));
  shape.gradient_checkpointing = true;
  shape.lora.r = 1;
  const MemoryPlan loading = plan_memory(shape);
  EXPECT_EQ(loading.peak, PeakPhase::kLoading);
  EXPECT_EQ(loading.bytes(MemoryKind::kWorkspace), 6 * 4096 * 11008);
  EXPECT_EQ(loading.bytes(MemoryKind::kAdapters), 0);
  EXPECT_STREQ(peak_phase_text(loading.peak), "while the base is loaded");
  shape.evaluation = full_batch(64, 512);
  EXPECT_EQ(plan_memory(shape).peak, PeakPhase::kEvaluation);
}

TEST(MemoryPlan, UnevenBatchesLoseAShareOfTheirActivations) {
  PlanShape shape = shape_of(testing::llama_7b());
  const MemoryPlan even = plan_memory(shape);
  shape.uneven_batches = true;
  const auto lost = static_cast<double>(plan_memory(shape).total() - even.total());
  const int64_t moving = even.bytes(MemoryKind::kActivations) + even.bytes(MemoryKind::kLogits);
  EXPECT_NEAR(lost / static_cast<double>(moving), 0.2, 1e-6);
}

TEST(MemoryPlan, AttentionScoresAreBounded) {
  PlanShape shape = shape_of(testing::llama_7b());
  // One sequence: 32 heads, 256 queries, 512 keys, 2 bytes, and the same for gradients.
  EXPECT_EQ(attention_workspace(shape, full_batch(1, 512)), 2 * 32 * 256 * 512 * 2);
  // Short sequences go together, as many as fit 8 MB: 2^k of 32 * 32 * 32 * 2 bytes.
  EXPECT_EQ(attention_workspace(shape, full_batch(1000, 20)), 2 * (int64_t{8} << 20));
  EXPECT_EQ(attention_workspace(shape, full_batch(5, 20)), 2 * 4 * 32 * 32 * 32 * 2);
}

TEST(MemorySavings, AreSortedAndTrue) {
  PlanShape shape = shape_of(testing::llama_7b(), full_batch(8, 1024));
  shape.load_in_4bit = false;
  shape.states = OptimizerStates::k32bit;
  shape.compute_bytes = 4;
  const int64_t total = plan_memory(shape).total();
  const auto savings = memory_savings(shape);
  ASSERT_GE(savings.size(), 6U);
  for (size_t i = 1; i < savings.size(); ++i) {
    EXPECT_GE(savings[i - 1].saved_bytes, savings[i].saved_bytes);
  }
  for (const MemorySaving& saving : savings) {
    EXPECT_FALSE(saving.cost.empty());
    if (saving.setting != "gradient_checkpointing=true") continue;
    PlanShape changed = shape;
    changed.gradient_checkpointing = true;
    EXPECT_EQ(saving.saved_bytes, total - plan_memory(changed).total());
  }
  const std::string advice = advice_text(savings);
  EXPECT_SAYS(advice, savings[0].setting + " (-");
  EXPECT_SAYS(advice, savings[2].setting);
  EXPECT_EQ(advice.find(savings[3].setting + " ("), std::string::npos);
}

TEST(MemorySavings, WhatIsLowAlreadyIsNotAdvised) {
  PlanShape shape = shape_of(testing::llama_7b(), full_batch(1, 32));
  shape.gradient_checkpointing = true;
  shape.lora.r = 1;
  for (const MemorySaving& saving : memory_savings(shape)) {
    ADD_FAILURE() << saving.setting << " saves " << saving.saved_bytes;
  }
  EXPECT_EQ(advice_text({}), "");
}

TEST(MemorySavings, HalvingTheBatchRoundsUp) {
  PlanShape shape = shape_of(testing::llama_7b(), full_batch(3, 512));
  for (const MemorySaving& saving : memory_savings(shape)) {
    if (!saving.setting.starts_with("per_device")) continue;
    EXPECT_EQ(saving.setting, "per_device_train_batch_size=2");
    PlanShape changed = shape_of(testing::llama_7b(), full_batch(2, 512));
    EXPECT_EQ(saving.saved_bytes, plan_memory(shape).total() - plan_memory(changed).total());
    return;
  }
  ADD_FAILURE() << "no advice on the batch size";
}

}  // namespace
}  // namespace qlora::model
