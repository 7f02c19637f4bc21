#include "lora/merge.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty_like.h>

#include "core/error.h"
#include "lora/merge_backend.h"

namespace qlora::lora {

torch::Tensor merged_weight(const torch::Tensor& weight, const Adapter& adapter) {
  const at::NoGradGuard no_graph;
  const bool fits = weight.dim() == 2 && adapter.a.dim() == 2 && adapter.b.dim() == 2 &&
                    adapter.a.size(1) == weight.size(1) && adapter.b.size(0) == weight.size(0) &&
                    adapter.a.size(0) == adapter.b.size(1);
  QLORA_CHECK(fits, ShapeError,
              "[lora] a weight {} cannot take an adapter A {}, B {}; allowed [N, K], [R, K], "
              "[N, R]; is it the adapter of another base?",
              c10::str(weight.sizes()), c10::str(adapter.a.sizes()), c10::str(adapter.b.sizes()));
  const auto as_filed = [&](const torch::Tensor& master) {
    return master.detach().to(adapter.dtype).to(torch::kFloat32).contiguous();
  };
  const torch::Tensor base = weight.to(torch::kFloat32).contiguous();
  const torch::Tensor a = as_filed(adapter.a), b = as_filed(adapter.b);
  torch::Tensor out = at::empty_like(base);
  cpu::merge({.weight = base.const_data_ptr<float>(),
              .a = a.const_data_ptr<float>(),
              .b = b.const_data_ptr<float>(),
              .out = out.mutable_data_ptr<float>(),
              .rows = base.size(0),
              .cols = base.size(1),
              .rank = adapter.rank(),
              .scale = static_cast<float>(adapter.scale)});
  return out;
}

}  // namespace qlora::lora
