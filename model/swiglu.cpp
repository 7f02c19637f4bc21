#include "model/swiglu.h"

#include <ATen/ops/empty_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include "core/device.h"
#include "model/swiglu_backend.h"
#include "quant/checks.h"
#include "quant/one_device.h"

namespace qlora::model {

namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct SwigluFunction : torch::autograd::Function<SwigluFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& gate, const Tensor& up,
                        io::Activation activation) {
    quant::check_one_device("model", gate, {&up});
    Tensor y = at::empty_like(gate);
    const SwigluArgs args{.gate = gate.const_data_ptr(),
                          .up = up.const_data_ptr(),
                          .y = y.mutable_data_ptr(),
                          .count = gate.numel(),
                          .activation = activation,
                          .kind = float_kind(gate.scalar_type()),
                          .stream = quant::stream_of(gate)};
    gate.is_cuda() ? cuda::swiglu(args) : cpu::swiglu(args);
    ctx->save_for_backward({gate, up});
    ctx->saved_data["activation"] = static_cast<int64_t>(activation);
    return y;
  }

  static variable_list backward(AutogradContext* ctx, variable_list gradients) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &gate = saved[0], &up = saved[1];
    const auto activation = static_cast<io::Activation>(ctx->saved_data["activation"].toInt());
    const Tensor dy = gradients[0].contiguous();
    quant::check_one_device("model", gate, {&dy});
    Tensor dgate = at::empty_like(gate), dup = at::empty_like(up);
    const SwigluBackwardArgs args{.dy = dy.const_data_ptr(),
                                  .gate = gate.const_data_ptr(),
                                  .up = up.const_data_ptr(),
                                  .dgate = dgate.mutable_data_ptr(),
                                  .dup = dup.mutable_data_ptr(),
                                  .count = gate.numel(),
                                  .activation = activation,
                                  .kind = float_kind(gate.scalar_type()),
                                  .stream = quant::stream_of(gate)};
    gate.is_cuda() ? cuda::swiglu_backward(args) : cpu::swiglu_backward(args);
    return {dgate, dup, Tensor()};
  }
};

}  // namespace

torch::Tensor swiglu(const torch::Tensor& gate, const torch::Tensor& up,
                     io::Activation activation) {
  return SwigluFunction::apply(gate.contiguous(), up.contiguous(), activation);
}

}  // namespace qlora::model
