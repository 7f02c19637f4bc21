#pragma once

#include <cstdint>
#include <vector>

namespace qlora {

/// Marks a position whose next token carries no loss (the value that torch and transformers use).
inline constexpr int32_t kIgnoreTarget = -100;

/// Some texts, one after another, without padding: what data makes and model reads.
/// A segment never attends to another; positions count from 0 in each.
struct TokenBatch {
  std::vector<int32_t> tokens;   // [T]
  std::vector<int32_t> targets;  // [T] the token that position t has to predict, or kIgnoreTarget
  std::vector<int32_t> segment_starts;  // [S + 1], first 0, last T

  int64_t target_tokens() const {
    int64_t count = 0;
    for (const int32_t target : targets) count += target != kIgnoreTarget;
    return count;
  }
};

}  // namespace qlora
