#include "model/attention.h"

#include <ATen/ops/bmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/custom_class.h>

#include <algorithm>
#include <bit>
#include <map>

#include "core/device.h"
#include "model/attention_backend.h"
#include "model/device_attention.h"
#include "quant/one_device.h"

namespace qlora::model {

namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t kQueryBlock = 256;      // rows of scores that one product makes
constexpr int64_t kLengthStep = 32;       // segments are rounded up to it
constexpr int64_t kScoreBytes = 8 << 20;  // of one block of scores: it stays in the cache

/// Some segments of one rounded length, computed together. Few different shapes exist, so that the
/// products' code, which is made for each new shape, is soon there. What a segment lacks comes
/// after its tokens, where no query sees it.
struct Group {
  std::vector<int64_t> begins, lengths;  // [S]
  int64_t length = 0;                    // rounded
};

/// Shapes of one call. Query heads that share a kv head stand below each other as rows of one
/// matrix, so that keys and values are never repeated and their gradients come out summed.
struct Shape {
  int64_t kv_heads;  // J
  int64_t group;     // query heads a kv head, H = J·group
  int64_t head_dim;  // D
};

/// Segments by rounded length, in powers of two of them.
std::vector<Group> groups_of(const std::vector<int64_t>& starts, const Shape& shape,
                             int64_t element_bytes) {
  std::map<int64_t, Group> by_length;
  for (size_t s = 0; s + 1 < starts.size(); ++s) {
    const int64_t length = starts[s + 1] - starts[s];
    const int64_t rounded = (length + kLengthStep - 1) / kLengthStep * kLengthStep;
    Group& group = by_length[rounded];
    group.length = rounded;
    group.begins.push_back(starts[s]);
    group.lengths.push_back(length);
  }
  std::vector<Group> groups;
  for (const auto& [length, all] : by_length) {
    const int64_t segment_bytes =
        shape.kv_heads * shape.group * length * std::min(length, kQueryBlock) * element_bytes;
    const int64_t most = std::max<int64_t>(1, kScoreBytes / segment_bytes);
    for (int64_t i = 0, left = static_cast<int64_t>(all.begins.size()); left > 0;) {
      const int64_t count =
          static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(std::min(left, most))));
      groups.push_back({{all.begins.begin() + i, all.begins.begin() + i + count},
                        {all.lengths.begin() + i, all.lengths.begin() + i + count},
                        length});
      i += count;
      left -= count;
    }
  }
  return groups;
}

HeadLayout layout_of(const Group& run, const Shape& shape, int64_t first, int64_t count,
                     int64_t heads_per_matrix, int64_t element_bytes) {
  return {.begins = run.begins.data(),
          .lengths = run.lengths.data(),
          .segments = static_cast<int64_t>(run.begins.size()),
          .kv_heads = shape.kv_heads,
          .group = heads_per_matrix,
          .first = first,
          .queries = count,
          .row_bytes = shape.head_dim * element_bytes};
}

/// Positions [first, first + count) of every segment as matrices [S·J, heads·count, D].
Tensor matrices(const Tensor& x, const Group& run, const Shape& shape, int64_t first,
                int64_t count) {
  const int64_t heads = x.size(1) / (shape.kv_heads * shape.head_dim);
  const int64_t batches = static_cast<int64_t>(run.begins.size()) * shape.kv_heads;
  Tensor out = at::empty({batches, heads * count, shape.head_dim}, x.options());
  cpu::gather_heads(layout_of(run, shape, first, count, heads, x.element_size()),
                    x.const_data_ptr(), out.mutable_data_ptr());
  return out;
}

void store(const Tensor& from, Tensor& to, const Group& run, const Shape& shape, int64_t first,
           int64_t count) {
  const int64_t heads = to.size(1) / (shape.kv_heads * shape.head_dim);
  const Tensor typed = from.to(to.scalar_type()).contiguous();
  cpu::scatter_heads(layout_of(run, shape, first, count, heads, to.element_size()),
                     typed.const_data_ptr(), to.mutable_data_ptr());
}

/// Keys that a block of queries is multiplied with: from the first that any of them sees, rounded
/// down so that few shapes exist, to the block's end.
struct KeyRange {
  int64_t first, count;
};

KeyRange keys_of(int64_t first_query, int64_t queries, int64_t window) {
  const int64_t seen = std::max<int64_t>(0, first_query - window + 1);
  const int64_t first = window == 0 ? 0 : seen / kLengthStep * kLengthStep;
  return {first, first_query + queries - first};
}

CausalRows causal_rows(int64_t batches, int64_t group, int64_t first_query, int64_t queries,
                       const KeyRange& keys, const AttentionOptions& options,
                       torch::ScalarType dtype) {
  return {.batches = batches,
          .rows = group * queries,
          .queries = queries,
          .first_query = first_query,
          .first_key = keys.first,
          .keys = keys.count,
          .window = options.window,
          .head_dim = options.head_dim,
          .scale = score_scale(options),
          .softcap = static_cast<float>(options.softcap),
          .kind = float_kind(dtype)};
}

/// Calls body(first, count) for the blocks of queries of a group.
template <class Body>
void for_query_blocks(const Group& run, const Body& body) {
  for (int64_t first = 0; first < run.length; first += kQueryBlock) {
    body(first, std::min(kQueryBlock, run.length - first));
  }
}

/// What the backward needs beside the tensors.
struct AttentionPass : torch::CustomClassHolder {
  std::vector<int64_t> starts;
  AttentionOptions options;

  Shape shape(const Tensor& q, const Tensor& k) const {
    return {k.size(1) / options.head_dim, q.size(1) / k.size(1), options.head_dim};
  }
  CausalRows rows(const Group& run, const Shape& shape, int64_t first, int64_t count,
                  const KeyRange& keys, torch::ScalarType dtype) const {
    return causal_rows(static_cast<int64_t>(run.begins.size()) * shape.kv_heads, shape.group, first,
                       count, keys, options, dtype);
  }
};

struct AttentionFunction : torch::autograd::Function<AttentionFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& q, const Tensor& k, const Tensor& v,
                        const c10::intrusive_ptr<AttentionPass>& pass) {
    const Shape shape = pass->shape(q, k);
    Tensor out = at::empty_like(q);
    variable_list kept = {q, k, v, out};
    for (const Group& run : groups_of(pass->starts, shape, q.element_size())) {
      const Tensor keys = matrices(k, run, shape, 0, run.length);    // [S·J, L, D]
      const Tensor values = matrices(v, run, shape, 0, run.length);  // [S·J, L, D]
      for_query_blocks(run, [&](int64_t first, int64_t count) {
        const KeyRange seen = keys_of(first, count, pass->options.window);
        const Tensor queries = matrices(q, run, shape, first, count);
        Tensor scores = at::bmm(queries, keys.narrow(1, seen.first, seen.count).transpose(1, 2));
        Tensor logsumexp = at::empty({scores.size(0), scores.size(1)}, torch::kFloat32);
        cpu::causal_softmax({.shape = pass->rows(run, shape, first, count, seen, q.scalar_type()),
                             .scores = scores.mutable_data_ptr(),
                             .logsumexp = logsumexp.mutable_data_ptr<float>()});
        store(at::bmm(scores, values.narrow(1, seen.first, seen.count)), out, run, shape, first,
              count);
        kept.push_back(logsumexp);
      });
    }
    ctx->save_for_backward(kept);
    ctx->saved_data["pass"] = c10::IValue::make_capsule(pass);
    return out;
  }

  static variable_list backward(AutogradContext* ctx, variable_list gradients) {
    const auto pass =
        c10::static_intrusive_pointer_cast<AttentionPass>(ctx->saved_data["pass"].toCapsule());
    const auto saved = ctx->get_saved_variables();
    const Tensor &q = saved[0], &k = saved[1], &v = saved[2], &out = saved[3];
    const Shape shape = pass->shape(q, k);
    const Tensor dout = gradients[0].contiguous();
    Tensor dq = at::empty_like(q), dk = at::empty_like(k), dv = at::empty_like(v);
    size_t next = 4;
    for (const Group& run : groups_of(pass->starts, shape, q.element_size())) {
      const Tensor keys = matrices(k, run, shape, 0, run.length);
      const Tensor values = matrices(v, run, shape, 0, run.length);
      // Blocks of queries add up in FP32.
      Tensor key_sums = at::zeros(keys.sizes(), torch::kFloat32);
      Tensor value_sums = at::zeros(keys.sizes(), torch::kFloat32);
      for_query_blocks(run, [&](int64_t first, int64_t count) {
        const KeyRange seen = keys_of(first, count, pass->options.window);
        const auto visible = [&](const Tensor& x) { return x.narrow(1, seen.first, seen.count); };
        const Tensor queries = matrices(q, run, shape, first, count);
        const Tensor dblock = matrices(dout, run, shape, first, count);
        const Tensor block = matrices(out, run, shape, first, count);
        Tensor scores = at::bmm(queries, visible(keys).transpose(1, 2));
        Tensor dscores = at::bmm(dblock, visible(values).transpose(1, 2));
        cpu::causal_softmax_backward(
            {.shape = pass->rows(run, shape, first, count, seen, q.scalar_type()),
             .scores = scores.mutable_data_ptr(),
             .dscores = dscores.mutable_data_ptr(),
             .logsumexp = saved[next++].const_data_ptr<float>(),
             .out = block.const_data_ptr(),
             .dout = dblock.const_data_ptr()});
        store(at::bmm(dscores, visible(keys)), dq, run, shape, first, count);
        visible(key_sums).add_(at::bmm(dscores.transpose(1, 2), queries));
        visible(value_sums).add_(at::bmm(scores.transpose(1, 2), dblock));
      });
      store(key_sums, dk, run, shape, 0, run.length);
      store(value_sums, dv, run, shape, 0, run.length);
    }
    return {dq, dk, dv, Tensor()};
  }
};

/// Repeats each key and value head for the query heads that share it.  [1, H, L, D]
Tensor repeated(const Tensor& x, int64_t times) {
  return times == 1 ? x.unsqueeze(0) : x.repeat_interleave(times, 0).unsqueeze(0);
}

/// Some queries of one sequence behind a cache, block by block as above.
Tensor tiled_cached_attention(const Tensor& q, const Tensor& keys, const Tensor& values,
                              const AttentionOptions& options) {
  const int64_t n = q.size(0), kv_heads = keys.size(0), cached = keys.size(1) - n;
  const int64_t d = options.head_dim, group = q.size(1) / (kv_heads * d);
  Tensor out = at::empty_like(q);
  for (int64_t first = 0; first < n; first += kQueryBlock) {
    const int64_t count = std::min(kQueryBlock, n - first);
    const KeyRange seen = keys_of(cached + first, count, options.window);
    const Tensor queries = q.narrow(0, first, count)
                               .view({count, kv_heads, group, d})
                               .permute({1, 2, 0, 3})
                               .reshape({kv_heads, group * count, d});
    Tensor scores = at::bmm(queries, keys.narrow(1, seen.first, seen.count).transpose(1, 2));
    Tensor logsumexp = at::empty({scores.size(0), scores.size(1)}, torch::kFloat32);
    cpu::causal_softmax({.shape = causal_rows(kv_heads, group, cached + first, count, seen, options,
                                              q.scalar_type()),
                         .scores = scores.mutable_data_ptr(),
                         .logsumexp = logsumexp.mutable_data_ptr<float>()});
    const Tensor mixed = at::bmm(scores, values.narrow(1, seen.first, seen.count));
    out.narrow(0, first, count)
        .view({count, kv_heads, group, d})
        .copy_(mixed.view({kv_heads, group, count, d}).permute({2, 0, 1, 3}));
  }
  return out;
}

}  // namespace

torch::Tensor attention(const torch::Tensor& q, const torch::Tensor& k, const torch::Tensor& v,
                        const std::vector<int32_t>& segment_starts,
                        const AttentionOptions& options) {
  quant::check_one_device("model", q, {&k, &v});
  if (q.is_cuda()) return device_attention(q, k, v, segment_starts, options);
  auto pass = c10::make_intrusive<AttentionPass>();
  pass->starts.assign(segment_starts.begin(), segment_starts.end());
  pass->options = options;
  return AttentionFunction::apply(q.contiguous(), k.contiguous(), v.contiguous(), pass);
}

torch::Tensor cached_attention(const torch::Tensor& q, const torch::Tensor& keys,
                               const torch::Tensor& values, const AttentionOptions& options) {
  if (q.is_cuda()) return device_cached_attention(q, keys, values, options);
  if (q.size(0) > 1 || options.softcap > 0) {
    return tiled_cached_attention(q.contiguous(), keys, values, options);
  }
  const int64_t total = keys.size(1), heads = q.size(1) / options.head_dim;
  const int64_t times = heads / keys.size(0);
  const KeyRange seen = options.window > 0 && options.window < total
                            ? KeyRange{total - options.window, options.window}
                            : KeyRange{0, total};
  const auto visible = [&](const Tensor& x) {
    return repeated(x.narrow(1, seen.first, seen.count), times);
  };
  const Tensor y = at::scaled_dot_product_attention(
      q.view({1, 1, heads, options.head_dim}).transpose(1, 2), visible(keys), visible(values),
      std::nullopt, 0.0, false, static_cast<double>(score_scale(options)));
  return y.transpose(1, 2).reshape({1, heads * options.head_dim});
}

}  // namespace qlora::model
