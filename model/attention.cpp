#include "model/attention.h"

#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu_backward.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <torch/csrc/autograd/custom_function.h>

namespace qlora::model {

namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// Neighbouring segments of one length: tokens [begin, begin + segments·length).
struct Run {
  int64_t begin, segments, length;
  int64_t tokens() const { return segments * length; }
};

std::vector<Run> equal_runs(const std::vector<int32_t>& starts) {
  std::vector<Run> runs;
  for (size_t s = 0; s + 1 < starts.size(); ++s) {
    const int64_t length = starts[s + 1] - starts[s];
    if (!runs.empty() && runs.back().length == length) {
      ++runs.back().segments;
    } else {
      runs.push_back({starts[s], 1, length});
    }
  }
  return runs;
}

/// [T, heads·D] -> [S, heads, L, D], a view.
Tensor per_head(const Tensor& x, const Run& run, int64_t head_dim) {
  return x.narrow(0, run.begin, run.tokens())
      .view({run.segments, run.length, -1, head_dim})
      .transpose(1, 2);
}

/// Repeats each key and value head for the query heads that share it.  [S, H, L, D]
Tensor repeated(const Tensor& x, int64_t times) {
  if (times == 1) return x;
  const auto s = x.sizes();
  return x.unsqueeze(2)
      .expand({s[0], s[1], times, s[2], s[3]})
      .reshape({s[0], s[1] * times, s[2], s[3]});
}

/// Sums the gradients of the query heads that share a head.
Tensor summed(const Tensor& gradient, int64_t times) {
  if (times == 1) return gradient;
  const auto s = gradient.sizes();
  return gradient.view({s[0], s[1] / times, times, s[2], s[3]}).sum(2);
}

struct AttentionFunction : torch::autograd::Function<AttentionFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& q, const Tensor& k, const Tensor& v,
                        const std::vector<int32_t>& starts, int64_t head_dim) {
    const int64_t times = q.size(1) / k.size(1);
    Tensor out = at::empty_like(q);
    variable_list kept = {q, k, v, out};
    for (const Run& run : equal_runs(starts)) {
      const auto [y, logsumexp] = at::_scaled_dot_product_flash_attention_for_cpu(
          per_head(q, run, head_dim), repeated(per_head(k, run, head_dim), times),
          repeated(per_head(v, run, head_dim), times), 0.0, /*is_causal=*/true);
      per_head(out, run, head_dim).copy_(y);
      kept.push_back(logsumexp);
    }
    ctx->save_for_backward(kept);
    ctx->saved_data["starts"] = std::vector<int64_t>(starts.begin(), starts.end());
    ctx->saved_data["head_dim"] = head_dim;
    return out;
  }

  static variable_list backward(AutogradContext* ctx, variable_list gradients) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &q = saved[0], &k = saved[1], &v = saved[2], &out = saved[3];
    const int64_t head_dim = ctx->saved_data["head_dim"].toInt();
    const auto wide = ctx->saved_data["starts"].toIntVector();
    const std::vector<int32_t> starts(wide.begin(), wide.end());
    const int64_t times = q.size(1) / k.size(1);
    const Tensor dout = gradients[0].contiguous();
    Tensor dq = at::empty_like(q), dk = at::empty_like(k), dv = at::empty_like(v);
    size_t next = 4;
    for (const Run& run : equal_runs(starts)) {
      const auto [gq, gk, gv] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
          per_head(dout, run, head_dim), per_head(q, run, head_dim),
          repeated(per_head(k, run, head_dim), times), repeated(per_head(v, run, head_dim), times),
          per_head(out, run, head_dim), saved[next++], 0.0, /*is_causal=*/true);
      per_head(dq, run, head_dim).copy_(gq);
      per_head(dk, run, head_dim).copy_(summed(gk, times));
      per_head(dv, run, head_dim).copy_(summed(gv, times));
    }
    return {dq, dk, dv, Tensor(), Tensor()};
  }
};

}  // namespace

torch::Tensor attention(const torch::Tensor& q, const torch::Tensor& k, const torch::Tensor& v,
                        const std::vector<int32_t>& segment_starts, int64_t head_dim) {
  return AttentionFunction::apply(q.contiguous(), k.contiguous(), v.contiguous(), segment_starts,
                                  head_dim);
}

torch::Tensor cached_attention(const torch::Tensor& q, const torch::Tensor& keys,
                               const torch::Tensor& values, int64_t head_dim) {
  const int64_t n = q.size(0), total = keys.size(1), heads = q.size(1) / head_dim;
  const int64_t times = heads / keys.size(0);
  const Tensor queries = q.view({1, n, heads, head_dim}).transpose(1, 2);
  // Token i of the new ones sees the cache and the new ones up to itself.
  std::optional<Tensor> mask;
  if (n > 1) mask = at::ones({n, total}, torch::kBool).tril(total - n);
  const Tensor y = at::scaled_dot_product_attention(queries, repeated(keys.unsqueeze(0), times),
                                                    repeated(values.unsqueeze(0), times), mask);
  return y.transpose(1, 2).reshape({n, heads * head_dim});
}

}  // namespace qlora::model
