#include "model/experts.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/split_with_sizes.h>
#include <ATen/ops/topk.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include "model/swiglu.h"

namespace qlora::model {

namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// The products' code is made for each new number of rows and kept: experts get whole steps of
/// rows, as the pass itself does.
constexpr int64_t kRowStep = 32;

/// Rows of x by index. The gradients of a row add up in FP32.
struct GatherFunction : torch::autograd::Function<GatherFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& index) {
    ctx->save_for_backward({index});
    ctx->saved_data["rows"] = x.size(0);
    return x.index_select(0, index);
  }
  static variable_list backward(AutogradContext* ctx, variable_list gradients) {
    const Tensor index = ctx->get_saved_variables()[0], &dy = gradients[0];
    Tensor dx = at::zeros({ctx->saved_data["rows"].toInt(), dy.size(1)},
                          dy.options().dtype(torch::kFloat32));
    dx.index_add_(0, index, dy.to(torch::kFloat32));
    return {dx.to(dy.scalar_type()), Tensor()};
  }
};

/// Which token is sent where: rows sorted by expert. Rows that fill a step up stand for token 0
/// with the weight 0.
struct Dispatch {
  std::vector<size_t> experts;  // those that have rows
  std::vector<int64_t> counts;  // rows of each
  Tensor tokens;                // [n] i64
  Tensor slots;                 // [n] i64 into the flat weights [T·used, 0]
};

Tensor to_tensor(const std::vector<int64_t>& values) {
  Tensor out = at::empty({static_cast<int64_t>(values.size())}, torch::kInt64);
  std::copy(values.begin(), values.end(), out.mutable_data_ptr<int64_t>());
  return out;
}

Dispatch dispatch(const Tensor& chosen, size_t experts) {
  const int64_t tokens = chosen.size(0), used = chosen.size(1);
  const int64_t* expert_of = chosen.const_data_ptr<int64_t>();
  std::vector<std::vector<int64_t>> slots(experts);
  for (int64_t slot = 0; slot < tokens * used; ++slot) {
    slots[static_cast<size_t>(expert_of[slot])].push_back(slot);
  }
  Dispatch plan;
  std::vector<int64_t> rows, taken;
  const int64_t step = tokens % kRowStep == 0 ? kRowStep : 1;
  for (size_t e = 0; e < experts; ++e) {
    if (slots[e].empty()) continue;
    for (const int64_t slot : slots[e]) {
      rows.push_back(slot / used);
      taken.push_back(slot);
    }
    auto count = static_cast<int64_t>(slots[e].size());
    for (; count % step != 0; ++count) {
      rows.push_back(0);
      taken.push_back(tokens * used);
    }
    plan.experts.push_back(e);
    plan.counts.push_back(count);
  }
  plan.tokens = to_tensor(rows);
  plan.slots = to_tensor(taken);
  return plan;
}

}  // namespace

torch::Tensor mixture_of_experts(const torch::Tensor& x, const torch::Tensor& router,
                                 const std::vector<ExpertMlp>& experts,
                                 const MixtureOptions& options, const lora::DropoutKey& dropout) {
  const Tensor logits = at::mm(x.to(torch::kFloat32), router.t());  // [T, E]
  auto [weights, chosen] = at::topk(at::softmax(logits, 1), options.used, 1);
  if (options.sums_to_one) weights = weights / weights.sum(1, true);
  Dispatch plan = dispatch(chosen.cpu().contiguous(), experts.size());
  plan.tokens = plan.tokens.to(x.device());
  plan.slots = plan.slots.to(x.device());

  const Tensor gathered = GatherFunction::apply(x, plan.tokens);
  const auto inputs = at::split_with_sizes(gathered, plan.counts, 0);
  std::vector<Tensor> outputs;
  for (size_t i = 0; i < plan.experts.size(); ++i) {
    const ExpertMlp& expert = experts[plan.experts[i]];
    const Tensor rows = inputs[i].contiguous();
    const Tensor gate = expert.gate_proj.forward(rows, options.compute_dtype, dropout);
    const Tensor up = expert.up_proj.forward(rows, options.compute_dtype, dropout);
    outputs.push_back(
        expert.down_proj.forward(swiglu(gate, up, options.activation), torch::kFloat32, dropout));
  }
  const Tensor flat = at::cat({weights.reshape({-1}), at::zeros({1}, weights.options())});
  const Tensor weighted = at::cat(outputs) * flat.index_select(0, plan.slots).unsqueeze(1);
  return at::zeros({x.size(0), weighted.size(1)}, x.options().dtype(torch::kFloat32))
      .index_add(0, plan.tokens, weighted);
}

}  // namespace qlora::model
