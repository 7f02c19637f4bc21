#include "model/attention.h"

#include <ATen/ops/bmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>

#include "core/device.h"
#include "model/attention_backend.h"

namespace qlora::model {

namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t kQueryBlock = 256;      // rows of scores that one product makes
constexpr int64_t kScoreBytes = 8 << 20;  // of one block of scores: it stays in the cache

/// Neighbouring segments of one length: tokens [begin, begin + segments·length).
struct Run {
  int64_t begin, segments, length;
};

/// Shapes of one call. Query heads that share a kv head stand below each other as rows of one
/// matrix, so that keys and values are never repeated and their gradients come out summed.
struct Shape {
  int64_t kv_heads;  // J
  int64_t group;     // query heads a kv head, H = J·group
  int64_t head_dim;  // D
};

std::vector<Run> equal_runs(const std::vector<int64_t>& starts, const Shape& shape,
                            int64_t element_bytes) {
  std::vector<Run> runs;
  for (size_t s = 0; s + 1 < starts.size(); ++s) {
    const int64_t length = starts[s + 1] - starts[s];
    const int64_t segment_bytes =
        shape.kv_heads * shape.group * length * std::min(length, kQueryBlock) * element_bytes;
    const int64_t most = std::max<int64_t>(1, kScoreBytes / segment_bytes);
    if (!runs.empty() && runs.back().length == length && runs.back().segments < most) {
      ++runs.back().segments;
    } else {
      runs.push_back({starts[s], 1, length});
    }
  }
  return runs;
}

/// A view of tokens [first, first + count) of every segment of a run: [S, J, group, count, D].
/// Keys and values have a group of 1.
Tensor blocks(const Tensor& x, const Run& run, const Shape& shape, int64_t first, int64_t count) {
  return x.narrow(0, run.begin, run.segments * run.length)
      .view({run.segments, run.length, shape.kv_heads, -1, shape.head_dim})
      .narrow(1, first, count)
      .permute({0, 2, 3, 1, 4});
}

/// The same as matrices of one batch: [S·J, group·count, D], contiguous.
Tensor matrices(const Tensor& x, const Run& run, const Shape& shape, int64_t first, int64_t count) {
  return blocks(x, run, shape, first, count)
      .reshape({run.segments * shape.kv_heads, -1, shape.head_dim})
      .contiguous();
}

void store(const Tensor& from, Tensor& to, const Run& run, const Shape& shape, int64_t first,
           int64_t count) {
  Tensor target = blocks(to, run, shape, first, count);
  target.copy_(from.view(target.sizes()));
}

CausalRows causal_rows(const Run& run, const Shape& shape, int64_t first, int64_t count,
                       torch::ScalarType dtype) {
  return {.batches = run.segments * shape.kv_heads,
          .rows = shape.group * count,
          .queries = count,
          .first_query = first,
          .keys = first + count,
          .head_dim = shape.head_dim,
          .scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim)),
          .kind = float_kind(dtype)};
}

/// Calls body(first, count) for the blocks of queries of a run.
template <class Body>
void for_query_blocks(const Run& run, const Body& body) {
  for (int64_t first = 0; first < run.length; first += kQueryBlock) {
    body(first, std::min(kQueryBlock, run.length - first));
  }
}

struct AttentionFunction : torch::autograd::Function<AttentionFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& q, const Tensor& k, const Tensor& v,
                        const std::vector<int64_t>& starts, int64_t head_dim) {
    const Shape shape = shape_of(q, k, head_dim);
    Tensor out = at::empty_like(q);
    variable_list kept = {q, k, v, out};
    for (const Run& run : equal_runs(starts, shape, q.element_size())) {
      const Tensor keys = matrices(k, run, shape, 0, run.length);    // [S·J, L, D]
      const Tensor values = matrices(v, run, shape, 0, run.length);  // [S·J, L, D]
      for_query_blocks(run, [&](int64_t first, int64_t count) {
        const int64_t seen = first + count;
        const Tensor queries = matrices(q, run, shape, first, count);
        Tensor scores = at::bmm(queries, keys.narrow(1, 0, seen).transpose(1, 2));
        Tensor logsumexp = at::empty({scores.size(0), scores.size(1)}, torch::kFloat32);
        cpu::causal_softmax({.shape = causal_rows(run, shape, first, count, q.scalar_type()),
                             .scores = scores.mutable_data_ptr(),
                             .logsumexp = logsumexp.mutable_data_ptr<float>()});
        store(at::bmm(scores, values.narrow(1, 0, seen)), out, run, shape, first, count);
        kept.push_back(logsumexp);
      });
    }
    ctx->save_for_backward(kept);
    ctx->saved_data["starts"] = starts;
    ctx->saved_data["head_dim"] = head_dim;
    return out;
  }

  static variable_list backward(AutogradContext* ctx, variable_list gradients) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &q = saved[0], &k = saved[1], &v = saved[2], &out = saved[3];
    const Shape shape = shape_of(q, k, ctx->saved_data["head_dim"].toInt());
    const Tensor dout = gradients[0].contiguous();
    Tensor dq = at::empty_like(q), dk = at::empty_like(k), dv = at::empty_like(v);
    size_t next = 4;
    for (const Run& run :
         equal_runs(ctx->saved_data["starts"].toIntVector(), shape, q.element_size())) {
      const Tensor keys = matrices(k, run, shape, 0, run.length);
      const Tensor values = matrices(v, run, shape, 0, run.length);
      // Blocks of queries add up in FP32.
      Tensor key_sums = at::zeros(keys.sizes(), torch::kFloat32);
      Tensor value_sums = at::zeros(keys.sizes(), torch::kFloat32);
      for_query_blocks(run, [&](int64_t first, int64_t count) {
        const int64_t seen = first + count;
        const Tensor queries = matrices(q, run, shape, first, count);
        const Tensor dblock = matrices(dout, run, shape, first, count);
        const Tensor block = matrices(out, run, shape, first, count);
        Tensor scores = at::bmm(queries, keys.narrow(1, 0, seen).transpose(1, 2));
        Tensor dscores = at::bmm(dblock, values.narrow(1, 0, seen).transpose(1, 2));
        cpu::causal_softmax_backward(
            {.shape = causal_rows(run, shape, first, count, q.scalar_type()),
             .scores = scores.mutable_data_ptr(),
             .dscores = dscores.mutable_data_ptr(),
             .logsumexp = saved[next++].const_data_ptr<float>(),
             .out = block.const_data_ptr(),
             .dout = dblock.const_data_ptr()});
        store(at::bmm(dscores, keys.narrow(1, 0, seen)), dq, run, shape, first, count);
        key_sums.narrow(1, 0, seen).add_(at::bmm(dscores.transpose(1, 2), queries));
        value_sums.narrow(1, 0, seen).add_(at::bmm(scores.transpose(1, 2), dblock));
      });
      store(key_sums, dk, run, shape, 0, run.length);
      store(value_sums, dv, run, shape, 0, run.length);
    }
    return {dq, dk, dv, Tensor(), Tensor()};
  }

  static Shape shape_of(const Tensor& q, const Tensor& k, int64_t head_dim) {
    return {k.size(1) / head_dim, q.size(1) / k.size(1), head_dim};
  }
};

/// Repeats each key and value head for the query heads that share it.  [1, H, L, D]
Tensor repeated(const Tensor& x, int64_t times) {
  return times == 1 ? x.unsqueeze(0) : x.repeat_interleave(times, 0).unsqueeze(0);
}

}  // namespace

torch::Tensor attention(const torch::Tensor& q, const torch::Tensor& k, const torch::Tensor& v,
                        const std::vector<int32_t>& segment_starts, int64_t head_dim) {
  const std::vector<int64_t> starts(segment_starts.begin(), segment_starts.end());
  return AttentionFunction::apply(q.contiguous(), k.contiguous(), v.contiguous(), starts, head_dim);
}

torch::Tensor cached_attention(const torch::Tensor& q, const torch::Tensor& keys,
                               const torch::Tensor& values, int64_t head_dim) {
  const int64_t n = q.size(0), total = keys.size(1), heads = q.size(1) / head_dim;
  const int64_t times = heads / keys.size(0);
  const Tensor queries = q.view({1, n, heads, head_dim}).transpose(1, 2);
  // Token i of the new ones sees the cache and the new ones up to itself.
  std::optional<Tensor> mask;
  if (n > 1) mask = at::ones({n, total}, torch::kBool).tril(total - n);
  const Tensor y = at::scaled_dot_product_attention(queries, repeated(keys, times),
                                                    repeated(values, times), mask);
  return y.transpose(1, 2).reshape({n, heads * head_dim});
}

}  // namespace qlora::model
