#include "model/rms_norm.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include "core/device.h"
#include "model/rms_norm_backend.h"
#include "quant/checks.h"
#include "quant/one_device.h"

namespace qlora::model {

namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct RmsNormFunction : torch::autograd::Function<RmsNormFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& weight, double epsilon,
                        torch::ScalarType out_dtype) {
    quant::check_one_device("model", x, {&weight});
    Tensor y = at::empty(x.sizes(), x.options().dtype(out_dtype));
    Tensor inverse_rms = at::empty({x.size(0)}, x.options());
    const RmsNormArgs args{.x = x.const_data_ptr<float>(),
                           .weight = weight.const_data_ptr<float>(),
                           .y = y.mutable_data_ptr(),
                           .inverse_rms = inverse_rms.mutable_data_ptr<float>(),
                           .tokens = x.size(0),
                           .width = x.size(1),
                           .epsilon = static_cast<float>(epsilon),
                           .kind = float_kind(out_dtype),
                           .stream = quant::stream_of(x)};
    x.is_cuda() ? cuda::rms_norm(args) : cpu::rms_norm(args);
    ctx->save_for_backward({x, weight, inverse_rms});
    return y;
  }

  static variable_list backward(AutogradContext* ctx, variable_list gradients) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &x = saved[0], &weight = saved[1], &inverse_rms = saved[2];
    const Tensor dy = gradients[0].contiguous();
    quant::check_one_device("model", x, {&dy});
    Tensor dx = at::empty_like(x);
    const RmsNormBackwardArgs args{.dy = dy.const_data_ptr(),
                                   .x = x.const_data_ptr<float>(),
                                   .weight = weight.const_data_ptr<float>(),
                                   .inverse_rms = inverse_rms.const_data_ptr<float>(),
                                   .dx = dx.mutable_data_ptr<float>(),
                                   .tokens = x.size(0),
                                   .width = x.size(1),
                                   .kind = float_kind(dy.scalar_type()),
                                   .stream = quant::stream_of(x)};
    x.is_cuda() ? cuda::rms_norm_backward(args) : cpu::rms_norm_backward(args);
    return {dx, Tensor(), Tensor(), Tensor()};
  }
};

}  // namespace

torch::Tensor rms_norm(const torch::Tensor& x, const torch::Tensor& weight, double epsilon,
                       torch::ScalarType out_dtype) {
  return RmsNormFunction::apply(x.contiguous(), weight, epsilon, out_dtype);
}

}  // namespace qlora::model
