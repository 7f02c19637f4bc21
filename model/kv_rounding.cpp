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
      const int64_t count = segments[s + 1] - segments[s];
      if (count == 0) continue;
      out.narrow(0, segments[s], count).copy_(round_range(x.narrow(0, segments[s], count), 0));
    }
    return out;
  });
  v = StraightThrough::apply(v, [&](const Tensor& x) { return by_head(x, round_range); });
}

}  // namespace qlora::model
