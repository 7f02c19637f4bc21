#pragma once

#include <torch/types.h>

#include <cstdint>
#include <vector>

#include "model/kv_options.h"

namespace qlora::model {

/// int4: so many tokens of a sequence share the ranges of their keys' channels. The newest tokens,
/// fewer than this, keep their keys as they are.
inline constexpr int64_t kKeyGroupTokens = 32;

/// Rounds keys (after their rotation) and values; gradients pass straight through.
///   k, v      [T, kv heads · D], replaced
///   segments  [S + 1]: groups of keys begin with their segment
///   Source    Liu et al., KIVI, arXiv:2402.02750
void round_kv(torch::Tensor& k, torch::Tensor& v, const std::vector<int32_t>& segments,
              int64_t head_dim, KvRounding rounding);

/// The same where a cache grows: rounds the tokens from `cached` on, and with int4 the keys of the
/// groups that they complete. Until its group is complete a key is as exact as in 16 bits, where
/// round_kv, which sees all tokens at once, has it rounded.
///   keys, values  [kv heads, T, D], changed
///   cached        tokens that were there before
void round_cached_kv(torch::Tensor& keys, torch::Tensor& values, int64_t cached,
                     KvRounding rounding);

}  // namespace qlora::model
