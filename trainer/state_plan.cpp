#include "trainer/state_plan.h"

#include "trainer/adamw_math.h"

namespace qlora::trainer {
namespace {

constexpr size_t kAlignment = 16;  // of what a GPU loads at once

size_t take(size_t& next, size_t bytes) {
  const size_t at = next;
  next += (bytes + kAlignment - 1) / kAlignment * kAlignment;
  return at;
}

}  // namespace

StatePlan plan_states(std::span<const int64_t> counts, size_t least_chunk_bytes) {
  StatePlan plan;
  size_t chunk_begin = 0, first_tensor = 0;
  for (size_t i = 0; i < counts.size(); ++i) {
    const auto codes = static_cast<size_t>(counts[i]);
    const auto absmax = (codes + kAdamwBlock - 1) / kAdamwBlock * sizeof(float);
    plan.slots.push_back({.mean_codes = take(plan.bytes, codes),
                          .square_codes = take(plan.bytes, codes),
                          .mean_absmax = take(plan.bytes, absmax),
                          .square_absmax = take(plan.bytes, absmax)});
    if (plan.bytes - chunk_begin < least_chunk_bytes) continue;
    plan.chunks.push_back(
        {chunk_begin, plan.bytes - chunk_begin, first_tensor, i + 1 - first_tensor});
    chunk_begin = plan.bytes;
    first_tensor = i + 1;
  }
  if (first_tensor == counts.size()) return plan;
  if (plan.chunks.empty()) {
    plan.chunks.push_back({0, 0, 0, 0});
  }
  plan.chunks.back().bytes = plan.bytes - plan.chunks.back().offset;
  plan.chunks.back().tensor_count = counts.size() - plan.chunks.back().first_tensor;
  return plan;
}

}  // namespace qlora::trainer
