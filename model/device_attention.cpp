#include "model/device_attention.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/softmax.h>

#include <limits>
#include <optional>

namespace qlora::model {
namespace {

using torch::Tensor;

/// Which keys a query sees, true where it does: `queries` at the end of `keys` positions, or
/// nothing where the order alone says so.  [queries, keys] bool
Tensor visible(int64_t queries, int64_t keys, int64_t window, torch::Device device) {
  const auto options = torch::TensorOptions(device).dtype(torch::kInt64);
  const Tensor query = at::arange(keys - queries, keys, options).unsqueeze(1);
  const Tensor key = at::arange(keys, options).unsqueeze(0);
  const Tensor seen = key.le(query);
  return window == 0 ? seen : seen.logical_and(key.gt(query - window));
}

bool needs_window(int64_t keys, const AttentionOptions& options) {
  return options.window > 0 && options.window < keys;
}

/// [n, heads·D] -> [1, heads, n, D]
Tensor by_head(const Tensor& x, int64_t head_dim) {
  return x.view({x.size(0), -1, head_dim}).transpose(0, 1).unsqueeze(0);
}

/// softmax(cap(scale·q·kᵀ))·v, step by step; the softmax is f32's.
///   q [1, H, n, D], k and v [1, H, m, D], mask [n, m]
Tensor composed(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& mask,
                const AttentionOptions& options) {
  const Tensor scores = at::matmul(q, k.transpose(2, 3)).to(torch::kFloat32) *
                        static_cast<double>(score_scale(options));
  const Tensor capped = (scores / options.softcap).tanh() * options.softcap;
  const Tensor seen =
      capped.masked_fill(mask.logical_not(), -std::numeric_limits<double>::infinity());
  return at::matmul(at::softmax(seen, 3).to(q.scalar_type()), v);
}

/// Queries [1, H, n, D] at the end of keys and values [1, J, m, D].  [1, H, n, D]
Tensor attend(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions& options) {
  const int64_t n = q.size(2), m = k.size(2), group = q.size(1) / k.size(1);
  const bool is_capped = options.softcap > 0, is_square = n == m;
  const bool has_mask = is_capped || needs_window(m, options) || (!is_square && n > 1);
  // Flash attention knows grouped heads; the fused kernels for f32 and for masks do not.
  const bool is_grouped = group > 1 && !has_mask && q.scalar_type() != torch::kFloat32;
  const auto repeated = [&](const Tensor& x) {
    return group == 1 || is_grouped ? x : x.repeat_interleave(group, 1);
  };
  const Tensor mask = has_mask
                          ? visible(n, m, needs_window(m, options) ? options.window : 0, q.device())
                          : Tensor();
  if (is_capped) return composed(q, repeated(k), repeated(v), mask, options);
  return at::scaled_dot_product_attention(
      q, repeated(k), repeated(v), has_mask ? std::optional(mask) : std::nullopt, 0.0,
      !has_mask && is_square, static_cast<double>(score_scale(options)), is_grouped);
}

/// [1, H, n, D] -> [n, H·D]
Tensor flat(const Tensor& x) {
  return x.squeeze(0).transpose(0, 1).reshape({x.size(2), x.size(1) * x.size(3)});
}

}  // namespace

Tensor device_attention(const Tensor& q, const Tensor& k, const Tensor& v,
                        const std::vector<int32_t>& segment_starts,
                        const AttentionOptions& options) {
  std::vector<Tensor> outputs;
  for (size_t s = 0; s + 1 < segment_starts.size(); ++s) {
    const int64_t begin = segment_starts[s], count = segment_starts[s + 1] - begin;
    const auto part = [&](const Tensor& x) {
      return by_head(x.contiguous().narrow(0, begin, count), options.head_dim);
    };
    outputs.push_back(flat(attend(part(q), part(k), part(v), options)));
  }
  return outputs.size() == 1 ? outputs.front() : at::cat(outputs);
}

Tensor device_cached_attention(const Tensor& q, const Tensor& keys, const Tensor& values,
                               const AttentionOptions& options) {
  return flat(attend(by_head(q.contiguous(), options.head_dim), keys.unsqueeze(0),
                     values.unsqueeze(0), options));
}

}  // namespace qlora::model
