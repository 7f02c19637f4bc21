#include "model/kv_rounding.h"

#include <torch/csrc/autograd/custom_function.h>

#include <functional>

namespace qlora::model {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr float kLeastScale = 1e-30F;

/// 8 bits with the greatest |x| along `dim` as the end of the grid.
Tensor round_symmetric(const Tensor& x, int64_t dim) {
  const Tensor scale = x.abs().amax(dim, /*keepdim=*/true).div(127).clamp_min(kLeastScale);
  return x.div(scale).round().mul(scale);
}

/// 4 bits between the smallest and the largest number along `dim`.
Tensor round_range(const Tensor& x, int64_t dim) {
  const Tensor low = x.amin(dim, true);
  const Tensor scale = x.amax(dim, true).sub(low).div(15).clamp_min(kLeastScale);
  return x.sub(low).div(scale).round().mul(scale).add(low);
}

/// Keys of the groups along `dim` that are complete, and were not yet after `before` tokens.
void round_groups(const Tensor& keys, int64_t dim, int64_t before) {
  const int64_t first = before / kKeyGroupTokens, end = keys.size(dim) / kKeyGroupTokens;
  for (int64_t group = first; group < end; ++group) {
    Tensor of_group = keys.narrow(dim, group * kKeyGroupTokens, kKeyGroupTokens);
    of_group.copy_(round_range(of_group.to(torch::kFloat32), dim));
  }
}

/// A rounding of f32 numbers whose gradient is that of no rounding.
struct StraightThrough : torch::autograd::Function<StraightThrough> {
  static Tensor forward(AutogradContext*, const Tensor& x,
                        const std::function<Tensor(const Tensor&)>& round) {
    return round(x.to(torch::kFloat32)).to(x.scalar_type());
  }
  static variable_list backward(AutogradContext*, variable_list gradients) {
    return {gradients[0], Tensor()};
  }
};

}  // namespace

void round_kv(Tensor& k, Tensor& v, const std::vector<int32_t>& segments, int64_t head_dim,
              KvRounding rounding) {
  if (rounding == KvRounding::kNone) return;
  const auto by_head = [&](const Tensor& x, auto&& round) {
    return round(x.view({x.size(0), -1, head_dim}), 2).view(x.sizes());
  };
  if (rounding == KvRounding::kInt8) {
    const auto round = [&](const Tensor& x) { return by_head(x, round_symmetric); };
    k = StraightThrough::apply(k, round);
    v = StraightThrough::apply(v, round);
    return;
  }
  k = StraightThrough::apply(k, [&](const Tensor& x) {
    Tensor out = x.clone();
    for (size_t s = 0; s + 1 < segments.size(); ++s) {
      round_groups(out.narrow(0, segments[s], segments[s + 1] - segments[s]), 0, 0);
    }
    return out;
  });
  v = StraightThrough::apply(v, [&](const Tensor& x) { return by_head(x, round_range); });
}

void round_cached_kv(Tensor& keys, Tensor& values, int64_t cached, KvRounding rounding) {
  if (rounding == KvRounding::kNone) return;
  const int64_t added = keys.size(1) - cached;
  const auto by_token = [&](Tensor& x, auto&& round) {
    Tensor newest = x.narrow(1, cached, added);
    newest.copy_(round(newest.to(torch::kFloat32), 2));
  };
  if (rounding == KvRounding::kInt8) {
    by_token(keys, round_symmetric);
    by_token(values, round_symmetric);
    return;
  }
  round_groups(keys, 1, cached);
  by_token(values, round_range);
}

}  // namespace qlora::model
