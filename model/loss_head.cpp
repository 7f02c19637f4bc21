#include "model/loss_head.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "core/device.h"
#include "core/error.h"
#include "core/token_batch.h"
#include "lora/scratch.h"
#include "model/cross_entropy_backend.h"
#include "quant/checks.h"
#include "quant/one_device.h"

namespace qlora::model {

namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// Chunks come in few sizes: the products' code is made for each new number of rows and kept.
constexpr int64_t kRowStep = 32;

/// FP16 cannot hold the probabilities of unlikely tokens: they are carried larger and made small
/// again in FP32. A power of two, so that it changes nothing but the exponent.
constexpr float kFp16Lift = 4096;

struct Positions {
  Tensor rows;     // [n] i64, where there is a target
  Tensor targets;  // [n] i64
};

Positions positions_with_target(const std::vector<int32_t>& targets, const Tensor& lm_head) {
  const int64_t vocabulary = lm_head.size(0);
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
  const auto to_tensor = [&](const std::vector<int64_t>& v) {
    Tensor out = at::empty({static_cast<int64_t>(v.size())}, torch::kInt64);
    std::copy(v.begin(), v.end(), out.mutable_data_ptr<int64_t>());
    return out.to(lm_head.device());
  };
  return {to_tensor(rows), to_tensor(wanted)};
}

/// Memory for the logits of a chunk. On the CPU one buffer a thread: chunks of other sizes would
/// each leave a hole of up to 16 MB. The next call overwrites it.
Tensor logits_memory(int64_t rows, int64_t vocabulary, const torch::TensorOptions& options) {
  if (!options.device().is_cpu()) return at::empty({rows, vocabulary}, options);
  return lora::scratch<struct Logits>(rows, vocabulary, c10::typeMetaToScalarType(options.dtype()));
}

/// Runs the projection and cross-entropy over chunks of `hidden` [n, C]; nll [n] f32, and where
/// asked for dhidden [n, C] f32, the gradient of the sum.
Tensor chunked_losses(const Tensor& hidden, const Tensor& lm_head, const Tensor& targets,
                      double softcap, Tensor* dhidden) {
  const int64_t n = hidden.size(0), vocabulary = lm_head.size(0);
  const int64_t row_bytes = vocabulary * static_cast<int64_t>(hidden.element_size());
  const int64_t chunk_bytes = hidden.is_cpu() ? kLogitChunkBytes : kDeviceLogitChunkBytes;
  const int64_t chunk = std::max(kRowStep, chunk_bytes / row_bytes / kRowStep * kRowStep);
  const float lift = hidden.scalar_type() == torch::kFloat16 ? kFp16Lift : 1;
  Tensor nll = at::empty({n}, hidden.options().dtype(torch::kFloat32));
  const int64_t rounded = (n + kRowStep - 1) / kRowStep * kRowStep;
  Tensor padded = at::zeros({rounded, hidden.size(1)}, hidden.options());
  padded.narrow(0, 0, n).copy_(hidden);
  const Tensor logits_buffer =
      logits_memory(std::min(chunk, rounded), vocabulary, hidden.options());
  for (int64_t begin = 0; begin < n; begin += chunk) {
    const int64_t count = std::min(chunk, n - begin), rows = std::min(chunk, rounded - begin);
    Tensor logits = logits_buffer.narrow(0, 0, rows);
    at::mm_out(logits, padded.narrow(0, begin, rows), lm_head.t());
    const CrossEntropyArgs args{.logits = logits.mutable_data_ptr(),
                                .targets = targets.const_data_ptr<int64_t>() + begin,
                                .nll = nll.mutable_data_ptr<float>() + begin,
                                .tokens = count,
                                .vocabulary = vocabulary,
                                .gradient_scale = lift,
                                .softcap = static_cast<float>(softcap),
                                .want_gradient = dhidden != nullptr,
                                .kind = float_kind(hidden.scalar_type()),
                                .stream = quant::stream_of(hidden)};
    hidden.is_cuda() ? cuda::cross_entropy(args) : cpu::cross_entropy(args);
    if (!dhidden) continue;
    dhidden->narrow(0, begin, count).copy_(at::mm(logits, lm_head).narrow(0, 0, count));
  }
  if (dhidden && lift != 1) dhidden->div_(lift);
  return nll;
}

struct TargetLossFunction : torch::autograd::Function<TargetLossFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& hidden, const Tensor& lm_head,
                        const std::vector<int32_t>& targets, double softcap) {
    const auto at = positions_with_target(targets, lm_head);
    quant::check_one_device("model", hidden, {&lm_head});
    Tensor dhidden =
        at::empty({at.rows.size(0), hidden.size(1)}, hidden.options().dtype(torch::kFloat32));
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
  const auto at = positions_with_target(targets, lm_head);
  Tensor losses = at::zeros({hidden.size(0)}, hidden.options().dtype(torch::kFloat32));
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
