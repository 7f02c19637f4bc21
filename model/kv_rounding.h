#pragma once

#include <torch/types.h>

#include <cstdint>
#include <vector>

#include "model/kv_options.h"

namespace qlora::model {

/// Rounds keys (after their rotation) and values; gradients pass straight through.
///   k, v      [T, kv heads · D], replaced
///   segments  [S + 1]: a channel's range is that of its segment. Tokens that are fed one by one
///             are segments of their own, whose keys 4 bits hold exactly: an engine keeps the
///             newest keys in 16 bits as well
///   Source    Liu et al., KIVI, arXiv:2402.02750
void round_kv(torch::Tensor& k, torch::Tensor& v, const std::vector<int32_t>& segments,
              int64_t head_dim, KvRounding rounding);

}  // namespace qlora::model
