#include "quant/column_sizes.h"

#include "core/device.h"
#include "quant/checks.h"
#include "quant/column_sizes_backend.h"

namespace qlora::quant {

void add_column_sizes(const torch::Tensor& x, const torch::Tensor& abs_sum,
                      const torch::Tensor& abs_max) {
  const auto is_row = [&](const torch::Tensor& t) {
    return t.dim() == 1 && t.size(0) == x.size(1) && t.is_contiguous();
  };
  QLORA_CHECK(x.dim() == 2 && x.stride(1) == 1 && is_row(abs_sum) && is_row(abs_max), ShapeError,
              "[quant] inputs have shape {} and the sums of their columns {} and {}, allowed "
              "[T, K], [K] and [K], rows contiguous",
              shape_text(x), shape_text(abs_sum), shape_text(abs_max));
  cpu::add_column_sizes({.x = x.const_data_ptr(),
                         .kind = float_kind(x.scalar_type()),
                         .rows = x.size(0),
                         .cols = x.size(1),
                         .row_stride = x.stride(0),
                         .abs_sum = abs_sum.mutable_data_ptr<float>(),
                         .abs_max = abs_max.mutable_data_ptr<float>()});
}

}  // namespace qlora::quant
