#include "lora/lora_linear.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/custom_class.h>

#include <functional>

#include "core/device.h"
#include "core/error.h"
#include "lora/lora_sum_backend.h"
#include "lora/product.h"
#include "lora/rounded_weight.h"
#include "lora/weight_product.h"
#include "quant/checks.h"
#include "quant/one_device.h"

namespace qlora::lora {

namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// base + delta + bias, summed in FP32, rounded once.  [T, N]
Tensor lora_sum(const Tensor& base, const Tensor& delta, const Tensor& bias,
                torch::ScalarType out_dtype) {
  if (!delta.defined() && !bias.defined()) return base.to(out_dtype);
  quant::check_one_device("lora", base, {&delta, &bias});
  Tensor y = at::empty(base.sizes(), base.options().dtype(out_dtype));
  const LoraSumArgs args{.base = base.const_data_ptr(),
                         .delta = delta.defined() ? delta.const_data_ptr() : nullptr,
                         .bias = bias.defined() ? bias.const_data_ptr<float>() : nullptr,
                         .y = y.mutable_data_ptr(),
                         .tokens = base.size(0),
                         .width = base.size(1),
                         .in_kind = float_kind(base.scalar_type()),
                         .out_kind = float_kind(out_dtype),
                         .stream = quant::stream_of(base)};
  base.is_cuda() ? cuda::lora_sum(args) : cpu::lora_sum(args);
  return y;
}

/// What a pass knows beside its tensors. The linear outlives every graph through it.
struct LinearPass : torch::CustomClassHolder {
  const std::string* module = nullptr;
  const FrozenWeight* weight = nullptr;
  const Adapter* adapter = nullptr;
  const LinearGrid* grid = nullptr;
  std::optional<quant::InputQuantizer> inputs;  // what the engine does to x
  Tensor bias;                                  // [N] f32, or undefined
  double scale = 0;                             // s
  double dropout_p = 0;                         // 0 outside of training
  DropoutKey key;
  uint64_t stream = 0;
  torch::ScalarType adapter_dtype = torch::kFloat32;
  torch::ScalarType out_dtype = torch::kFloat32;

  /// x·Wᵀ and dy·W with the weight of the products: with a grid, merged and rounded.
  Tensor base_product(const Tensor& x) const {
    return grid == nullptr ? weight_product(x, *weight)
                           : product(x, rounded_weight(x.scalar_type()).t());
  }
  Tensor base_gradient(const Tensor& dy) const {
    return grid == nullptr ? weight_gradient(dy, *weight)
                           : product(dy, rounded_weight(dy.scalar_type()));
  }
  Tensor rounded_weight(torch::ScalarType dtype) const {
    try {
      return fake_quantized(*weight, adapter, *grid, dtype);
    } catch (const ValueError& problem) {
      throw ValueError(
          fmt::format("[qat] {} cannot be put on its grid: {}", *module, problem.what()));
    }
  }
  Tensor dropped(const Tensor& x) const {
    return dropout_p > 0 ? dropout(x, dropout_p, key, stream) : x;
  }
  /// x as the frozen weight's product sees it: rounded where an engine would round it. The gradient
  /// passes straight through.
  Tensor base_input(const Tensor& x) const { return inputs ? quant::round_inputs(x, *inputs) : x; }
  /// The gradient of x from that of base_input(x).
  Tensor through_input(const Tensor& x, Tensor gradient) const {
    if (inputs) quant::mask_input_gradient(x, *inputs, gradient);
    return gradient;
  }
  /// An adapter matrix as the products see it: rounded to its type, then to the compute type.
  Tensor rounded(const Tensor& master, torch::ScalarType compute_dtype) const {
    return master.to(adapter_dtype).to(compute_dtype);
  }
  /// s times that matrix. The factor is put on the small matrices, never on [T, N] numbers.
  Tensor scaled(const Tensor& master, torch::ScalarType compute_dtype) const {
    return (master.to(adapter_dtype).to(torch::kFloat32) * scale).to(compute_dtype);
  }
};

/// Base alone: the gradient passes through W to x.
struct FrozenLinearFunction : torch::autograd::Function<FrozenLinearFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x,
                        const c10::intrusive_ptr<LinearPass>& pass) {
    ctx->saved_data["pass"] = c10::IValue::make_capsule(pass);
    ctx->saved_data["dtype"] = static_cast<int64_t>(x.scalar_type());
    if (pass->grid != nullptr && pass->inputs) ctx->save_for_backward({x});
    return lora_sum(pass->base_product(pass->base_input(x)), {}, pass->bias, pass->out_dtype);
  }

  static variable_list backward(AutogradContext* ctx, variable_list gradients) {
    const auto pass =
        c10::static_intrusive_pointer_cast<LinearPass>(ctx->saved_data["pass"].toCapsule());
    const auto dtype = static_cast<torch::ScalarType>(ctx->saved_data["dtype"].toInt());
    Tensor dx = pass->base_gradient(gradients[0].to(dtype));
    if (pass->grid != nullptr && pass->inputs) {
      dx = pass->through_input(ctx->get_saved_variables()[0], dx);
    }
    return {dx, Tensor()};
  }
};

/// With A' = s·A and B' = B as the products see them: u = dropout(x)·A'ᵀ, y = x·Wᵀ + u·B'ᵀ + bias.
/// Backward, with v = dy·B':
///   dx = dy·W + dropout'(v·A'),  dA = s·vᵀ·dropout(x),  dB = dyᵀ·u
struct LoraLinearFunction : torch::autograd::Function<LoraLinearFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& a, const Tensor& b,
                        const c10::intrusive_ptr<LinearPass>& pass) {
    const auto dtype = x.scalar_type();
    const Tensor scaled_a = pass->scaled(a, dtype), rounded_b = pass->rounded(b, dtype);
    const Tensor u = at::mm(pass->dropped(x), scaled_a.t());  // [T, R]
    Tensor delta = at::mm(u, rounded_b.t());                  // [T, N]
    ctx->save_for_backward({x, u, scaled_a, rounded_b});
    ctx->saved_data["pass"] = c10::IValue::make_capsule(pass);
    const Tensor base_x = pass->base_input(x);
    if (pass->out_dtype != dtype) {
      return lora_sum(weight_product(base_x, *pass->weight), delta, pass->bias, pass->out_dtype);
    }
    if (pass->bias.defined()) delta += pass->bias;
    add_weight_product(delta, base_x, *pass->weight);
    return delta;
  }

  static variable_list backward(AutogradContext* ctx, variable_list gradients) {
    const auto pass =
        c10::static_intrusive_pointer_cast<LinearPass>(ctx->saved_data["pass"].toCapsule());
    const auto saved = ctx->get_saved_variables();
    const Tensor &x = saved[0], &u = saved[1], &scaled_a = saved[2], &rounded_b = saved[3];
    const auto dtype = x.scalar_type();
    const Tensor dy = gradients[0].to(dtype);                                           // [T, N]
    const Tensor v = at::mm(dy, rounded_b);                                             // [T, R]
    Tensor da = at::mm(v.t(), pass->dropped(x)).to(torch::kFloat32).mul_(pass->scale);  // [R, K]
    Tensor db = at::mm(dy.t(), u).to(torch::kFloat32);                                  // [N, R]
    Tensor dx;
    if (ctx->needs_input_grad(0)) {
      dx = pass->dropped(at::mm(v, scaled_a));  // [T, K]
      add_weight_gradient(dx, dy, *pass->weight);
    }
    return {dx, da, db, Tensor()};
  }
};

/// y = x·Q(W + s·B·A)ᵀ + bias. Backward, with dM the gradient of W + s·B·A:
///   dx = dy·Q,  dA = s·Bᵀ·dM,  dB = s·dM·Aᵀ
/// Where nothing is cut off dM is dyᵀ·x and is never formed: dA = s·(dy·B)ᵀ·x, dB = dyᵀ·(x·(s·A)ᵀ).
/// Without an adapter a and b are empty, and the grid's factor alone has a gradient.
struct GridLinearFunction : torch::autograd::Function<GridLinearFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& a, const Tensor& b,
                        const Tensor& factor, const c10::intrusive_ptr<LinearPass>& pass) {
    (void)factor;  // read through the grid; here it asks for its gradient
    ctx->save_for_backward({x, a, b});
    ctx->saved_data["pass"] = c10::IValue::make_capsule(pass);
    return lora_sum(pass->base_product(pass->base_input(x)), {}, pass->bias, pass->out_dtype);
  }

  static variable_list backward(AutogradContext* ctx, variable_list gradients) {
    const auto pass =
        c10::static_intrusive_pointer_cast<LinearPass>(ctx->saved_data["pass"].toCapsule());
    const auto saved = ctx->get_saved_variables();
    const auto dtype = saved[0].scalar_type();
    const Tensor x = pass->base_input(saved[0]);
    const Tensor dy = gradients[0].to(dtype);  // [T, N]
    const bool has_adapter = pass->adapter != nullptr;
    Tensor scaled_a, scaled_b, dx, da, db, dfactor;
    if (has_adapter) {
      scaled_a = pass->scaled(saved[1], dtype);  // [R, K]
      scaled_b = pass->scaled(saved[2], dtype);  // [N, R]
    }
    if (pass->grid->needs_weight_gradient()) {
      const GridGradient grid =
          fake_quantized_backward(*pass->weight, pass->adapter, *pass->grid, at::mm(dy.t(), x));
      if (has_adapter) {
        da = at::mm(scaled_b.t(), grid.weight).to(torch::kFloat32);
        db = at::mm(grid.weight, scaled_a.t()).to(torch::kFloat32);
      }
      dfactor = grid.factor;
      if (ctx->needs_input_grad(0)) dx = product(dy, grid.rounded);
    } else {
      da = at::mm(at::mm(dy, scaled_b).t(), x).to(torch::kFloat32);
      db = at::mm(dy.t(), at::mm(x, scaled_a.t())).to(torch::kFloat32);
      if (ctx->needs_input_grad(0)) dx = pass->base_gradient(dy);
    }
    if (dx.defined()) dx = pass->through_input(saved[0], dx);
    return {dx, da, db, dfactor, Tensor()};
  }
};

}  // namespace

LoraLinear::LoraLinear(std::string name, FrozenWeight weight, torch::Tensor bias)
    : name_(std::move(name)),
      weight_(std::move(weight)),
      bias_(std::move(bias)),
      dropout_stream_(dropout_stream(name_)) {}

torch::Tensor LoraLinear::forward(const torch::Tensor& x, torch::ScalarType out_dtype,
                                  const DropoutKey& dropout) const {
  QLORA_CHECK(x.dim() == 2 && x.size(1) == weight_.cols(), ShapeError,
              "[lora] the input of {} has shape {}, allowed [T, {}]", name_, c10::str(x.sizes()),
              weight_.cols());
  auto pass = c10::make_intrusive<LinearPass>();
  pass->module = &name_;
  pass->weight = &weight_;
  pass->bias = bias_;
  pass->out_dtype = out_dtype;
  pass->grid = grid_ ? &*grid_ : nullptr;
  pass->inputs = grid_ ? measured_inputs(x, dropout.training) : weight_.input_quantizer();
  const bool learns = grid_ && grid_->held != nullptr && grid_->held->factor.defined();
  if (!adapter_ && !learns) return FrozenLinearFunction::apply(x, pass);
  const Tensor none = at::empty({0});  // an undefined tensor is refused
  if (!adapter_) {
    return GridLinearFunction::apply(x, none, none, grid_->held->factor, pass);
  }
  pass->adapter = &*adapter_;
  pass->scale = adapter_->scale;
  pass->dropout_p = dropout.training ? adapter_->dropout : 0;
  pass->key = dropout;
  pass->stream = dropout_stream_;
  pass->adapter_dtype = adapter_->dtype;
  if (grid_) {
    return GridLinearFunction::apply(x, adapter_->a, adapter_->b,
                                     learns ? grid_->held->factor : none, pass);
  }
  return LoraLinearFunction::apply(x, adapter_->a, adapter_->b, pass);
}

/// What is done to x, after its observer has seen it. A recomputed forward is the one with a graph.
std::optional<quant::InputQuantizer> LoraLinear::measured_inputs(const Tensor& x,
                                                                 bool training) const {
  const bool sees = grid_->observer != nullptr && training && at::GradMode::is_enabled();
  if (sees) grid_->observer->observe(x);
  return grid_->input_quantizer();
}

void LoraLinear::hold_rounded_weight() {
  if (!grid_) return;
  weight_ = rounded_weight(weight_, adapter_ ? &*adapter_ : nullptr, *grid_);
  adapter_.reset();
  grid_.reset();
}

void LoraLinear::set_adapter(Adapter adapter) {
  const bool fits = adapter.a.dim() == 2 && adapter.b.dim() == 2 &&
                    adapter.a.size(0) == adapter.b.size(1) && adapter.a.size(1) == weight_.cols() &&
                    adapter.b.size(0) == weight_.rows();
  QLORA_CHECK(fits, ShapeError,
              "[lora] the adapter of {} has A {} and B {}, allowed [R, {}] and [{}, R]", name_,
              c10::str(adapter.a.sizes()), c10::str(adapter.b.sizes()), weight_.cols(),
              weight_.rows());
  adapter_ = std::move(adapter);
}

}  // namespace qlora::lora
