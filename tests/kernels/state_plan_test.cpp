// Where the optimizer's states lie, and which of them move together.
#include "trainer/state_plan.h"

#include <gtest/gtest.h>

#include <vector>

#include "core/cuda/paged_arena_cuda.h"
#include "trainer/adamw8_backend.h"

namespace qlora::trainer {
namespace {

constexpr size_t kChunk = qlora::cuda::PagedArena::kLeastChunkBytes;

/// The tensors of LoRA on all linears of a Llama model.
std::vector<int64_t> lora_counts(int64_t layers, int64_t width, int64_t mlp, int64_t rank) {
  std::vector<int64_t> counts;
  for (int64_t layer = 0; layer < layers; ++layer) {
    for (int i = 0; i < 4; ++i) counts.insert(counts.end(), {rank * width, width * rank});
    for (int i = 0; i < 2; ++i) counts.insert(counts.end(), {rank * width, mlp * rank});
    counts.insert(counts.end(), {rank * mlp, width * rank});
  }
  return counts;
}

// bitsandbytes pages tensors of at least 100,000 elements one by one; those of an adapter are
// smaller or little more, and each would be a page of its own.
TEST(StatePlanTest, NearlyAllStatesOf7BArePagedInLargeChunks) {
  for (const int64_t rank : {8, 16, 64}) {
    const auto counts = lora_counts(32, 4096, 11008, rank);
    const StatePlan plan = plan_states(counts, kChunk);
    int64_t paged = 0, all = 0, small = 0;
    for (const int64_t count : counts) {
      const int64_t bytes = 2 * count + 2 * 4 * ((count + 255) / 256);
      all += count >= kAdamw8MinElements ? bytes : 8 * count;
      paged += count >= kAdamw8MinElements ? bytes : 0;
      small += count < 500000 ? 1 : 0;
    }
    EXPECT_GT(small, std::ssize(counts) / 2);  // no tensor alone is worth a prefetch
    EXPECT_GT(static_cast<double>(paged), 0.9 * static_cast<double>(all));
    EXPECT_GE(static_cast<int64_t>(plan.bytes), paged);
    EXPECT_LE(static_cast<int64_t>(plan.bytes), paged + 4 * 15 * std::ssize(counts));
    size_t end = 0, next = 0;
    for (const auto& chunk : plan.chunks) {
      EXPECT_EQ(chunk.offset, end);
      EXPECT_EQ(chunk.first_tensor, next);
      EXPECT_GE(chunk.bytes, kChunk);
      EXPECT_LT(chunk.bytes, 2 * kChunk + 2 * 2 * 64 * 11008);
      end = chunk.offset + chunk.bytes;
      next += chunk.tensor_count;
    }
    EXPECT_EQ(end, plan.bytes);
    EXPECT_EQ(next, counts.size());
  }
}

TEST(StatePlanTest, StatesDoNotOverlapAndAreAligned) {
  const std::vector<int64_t> counts = {5000, 4096, 100001, 4097};
  const StatePlan plan = plan_states(counts, 15000);
  size_t end = 0;
  for (size_t i = 0; i < counts.size(); ++i) {
    const auto codes = static_cast<size_t>(counts[i]), absmax = (codes + 255) / 256 * 4;
    const auto& s = plan.slots[i];
    for (const auto& [at, bytes] :
         {std::pair{s.mean_codes, codes}, std::pair{s.square_codes, codes},
          std::pair{s.mean_absmax, absmax}, std::pair{s.square_absmax, absmax}}) {
      EXPECT_GE(at, end);
      EXPECT_EQ(at % 16, 0u);
      end = at + bytes;
    }
  }
  EXPECT_LE(end, plan.bytes);
  ASSERT_EQ(plan.chunks.size(), 2u);  // what is left over joins the last chunk
  EXPECT_EQ(plan.chunks[0].tensor_count, 2u);
  EXPECT_EQ(plan.chunks[1].tensor_count, 2u);
  const StatePlan small = plan_states(std::vector<int64_t>{4096}, kChunk);
  ASSERT_EQ(small.chunks.size(), 1u);
  EXPECT_EQ(small.chunks[0].bytes, small.bytes);
  EXPECT_TRUE(plan_states({}, kChunk).chunks.empty());
}

}  // namespace
}  // namespace qlora::trainer
