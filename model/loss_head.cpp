#include "model/loss_head.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "core/device.h"
#include "core/error.h"
#include "core/token_batch.h"
#include "model/cross_entropy_backend.h"

namespace qlora::model {

namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// Logits of one chunk at most: they stay in the last cache level between the two products.
constexpr int64_t kChunkBytes = 16 << 20;

/// Chunks come in few sizes: the products' code is made for each new number of rows and kept.
constexpr int64_t kRowStep = 32;

/// FP16 cannot hold the probabilities of unlikely tokens: they are carried larger and made small
/// again in FP32. A power of two, so that it changes nothing but the exponent.
constexpr float kFp16Lift = 4096;

struct Positions {
  Tensor rows;     // [n] i64, where there is a target
  Tensor targets;  // [n] i64
};

Positions positions_with_target(const std::vector<int32_t>& targets, int64_t vocabulary) {
  std::vector<int64_t> rows, wanted;
  for (size_t t = 0; t < targets.size(); ++t) {
    if (targets[t] == kIgnoreTarget) continue;
    QLORA_CHECK(targets[t] >= 0 && targets[t] < vocabulary, ValueError,
                "[model] target token {} at position {} is outside the vocabulary of {}; does the "
                "tokenizer belong to this model?",
                targets[t], t, vocabulary);
    rows.push_back(static_cast<int64_t>(t));
    wanted.push_back(targets[t]);
  }
  const auto to_tensor = [](const std::vector<int64_t>& v) {
    Tensor out = at::empty({static_cast<int64_t>(v.size())}, torch::kInt64);
    std::copy(v.begin(), v.end(), out.mutable_data_ptr<int64_t>());
    return out;
  };
  return {to_tensor(rows), to_tensor(wanted)};
}

/// Runs the projection and cross-entropy over chunks of `hidden` [n, C]; nll [n] f32, and where
/// asked for dhidden [n, C] f32, the gradient of the sum.
Tensor chunked_losses(const Tensor& hidden, const Tensor& lm_head, const Tensor& targets,
                      double softcap, Tensor* dhidden) {
  const int64_t n = hidden.size(0), vocabulary = lm_head.size(0);
  const int64_t row_bytes = vocabulary * static_cast<int64_t>(hidden.element_size());
  const int64_t chunk = std::max(kRowStep, kChunkBytes / row_bytes / kRowStep * kRowStep);
  const float lift = hidden.scalar_type() == torch::kFloat16 ? kFp16Lift : 1;
  Tensor nll = at::empty({n}, torch::kFloat32);
  const int64_t rounded = (n + kRowStep - 1) / kRowStep * kRowStep;
  Tensor padded = at::zeros({rounded, hidden.size(1)}, hidden.options());
  padded.narrow(0, 0, n).copy_(hidden);
  Tensor logits_buffer = at::empty({std::min(chunk, rounded), vocabulary}, hidden.options());
  for (int64_t begin = 0; begin < n; begin += chunk) {
    const int64_t count = std::min(chunk, n - begin), rows = std::min(chunk, rounded - begin);
    Tensor logits = logits_buffer.narrow(0, 0, rows);
    at::mm_out(logits, padded.narrow(0, begin, rows), lm_head.t());
    cpu::cross_entropy({.logits = logits.mutable_data_ptr(),
                        .targets = targets.const_data_ptr<int64_t>() + begin,
                        .nll = nll.mutable_data_ptr<float>() + begin,
                        .tokens = count,
                        .vocabulary = vocabulary,
                        .gradient_scale = lift,
                        .softcap = static_cast<float>(softcap),
                        .want_gradient = dhidden != nullptr,
                        .kind = float_kind(hidden.scalar_type())});
    if (!dhidden) continue;
    dhidden->narrow(0, begin, count).copy_(at::mm(logits, lm_head).narrow(0, 0, count));
  }
  if (dhidden && lift != 1) dhidden->div_(lift);
  return nll;
}

struct TargetLossFunction : torch::autograd::Function<TargetLossFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& hidden, const Tensor& lm_head,
                        const std::vector<int32_t>& targets, double softcap) {
    const auto at = positions_with_target(targets, lm_head.size(0));
    Tensor dhidden = at::empty({at.rows.size(0), hidden.size(1)}, torch::kFloat32);
    const bool wanted = hidden.requires_grad();
    const Tensor nll = chunked_losses(hidden.index_select(0, at.rows), lm_head, at.targets, softcap,
                                      wanted ? &dhidden : nullptr);
    ctx->save_for_backward({at.rows, dhidden});
    ctx->saved_data["tokens"] = hidden.size(0);
    ctx->saved_data["dtype"] = static_cast<int64_t>(hidden.scalar_type());
    return nll.sum(torch::kFloat64).to(torch::kFloat32);
  }

  static variable_list backward(AutogradContext* ctx, variable_list gradients) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &rows = saved[0], &dhidden = saved[1];
    const auto dtype = static_cast<torch::ScalarType>(ctx->saved_data["dtype"].toInt());
    const Tensor scaled = (dhidden * gradients[0]).to(dtype);
    Tensor full = at::zeros({ctx->saved_data["tokens"].toInt(), dhidden.size(1)}, scaled.options());
    full.index_copy_(0, rows, scaled);
    return {full, Tensor(), Tensor(), Tensor()};
  }
};

}  // namespace

torch::Tensor target_loss_sum(const torch::Tensor& hidden, const torch::Tensor& lm_head,
                              const std::vector<int32_t>& targets, double softcap) {
  return TargetLossFunction::apply(hidden, lm_head, targets, softcap);
}

torch::Tensor target_losses(const torch::Tensor& hidden, const torch::Tensor& lm_head,
                            const std::vector<int32_t>& targets, double softcap) {
  const auto at = positions_with_target(targets, lm_head.size(0));
  Tensor losses = at::zeros({hidden.size(0)}, torch::kFloat32);
  const Tensor nll =
      chunked_losses(hidden.index_select(0, at.rows), lm_head, at.targets, softcap, nullptr);
  losses.index_copy_(0, at.rows, nll);
  return losses;
}

torch::Tensor all_logits(const torch::Tensor& hidden, const torch::Tensor& lm_head,
                         double softcap) {
  const Tensor logits = at::mm(hidden, lm_head.t()).to(torch::kFloat32);
  return softcap > 0 ? (logits / softcap).tanh() * softcap : logits;
}

}  // namespace qlora::model
