#include "quant/checks.h"

#include <algorithm>

namespace qlora::quant {

std::string shape_text(const torch::Tensor& tensor) {
  return tensor.defined() ? c10::str(tensor.sizes()) : "none";
}

void check_weight(const torch::Tensor& weight) {
  QLORA_CHECK(weight.defined() && weight.dim() == 2 && weight.numel() > 0, ShapeError,
              "[quant] weight has shape {}, allowed [N, K] with at least one element",
              shape_text(weight));
}

void check_weight(const torch::Tensor& weight, int64_t cols) {
  QLORA_CHECK(weight.defined() && weight.dim() == 2 && weight.numel() > 0 && weight.size(1) == cols,
              ShapeError, "[quant] weight has shape {}, allowed [N, {}]", shape_text(weight), cols);
}

void check_f32(const torch::Tensor& weight) {
  QLORA_CHECK(weight.scalar_type() == torch::kFloat32, ValueError,
              "[quant] weight is {}, allowed f32", c10::toString(weight.scalar_type()));
}

void check_out(const torch::Tensor& out, int64_t rows, int64_t cols, const torch::Tensor& codes) {
  QLORA_CHECK(out.is_contiguous() && out.numel() == rows * cols, ShapeError,
              "[quant] out has shape {}{}, allowed a contiguous tensor of {} x {} elements",
              c10::str(out.sizes()), out.is_contiguous() ? "" : " (not contiguous)", rows, cols);
  check_device(codes, "weight");
  QLORA_CHECK(out.device() == codes.device(), DeviceError,
              "[quant] out is on {}, allowed {}, where the weight is", out.device().str(),
              codes.device().str());
}

GemvVectors gemv_vectors(const torch::Tensor& codes, int64_t rows, int64_t cols,
                         const torch::Tensor& x, const torch::Tensor& y) {
  const bool fits = x.dim() == 2 && x.size(1) == cols && x.is_contiguous();
  QLORA_CHECK(fits, ShapeError, "[quant] x has shape {}{}, allowed a contiguous [T, {}]",
              shape_text(x), x.is_contiguous() ? "" : " (not contiguous)", cols);
  check_out(y, x.size(0), rows, codes);
  QLORA_CHECK(x.scalar_type() == y.scalar_type(), ValueError,
              "[quant] x is {} and y {}, allowed one type", c10::toString(x.scalar_type()),
              c10::toString(y.scalar_type()));
  QLORA_CHECK(x.device() == codes.device(), DeviceError,
              "[quant] x is on {}, allowed {}, where the weight is", x.device().str(),
              codes.device().str());
  return {x.const_data_ptr(), y.mutable_data_ptr(), x.size(0), float_kind(x.scalar_type())};
}

int64_t first_bad_element(const torch::Tensor& flat, int64_t block_size,
                          const torch::Tensor& first_bad_block) {
  const int64_t block = first_bad_block.item<int64_t>();
  if (block == kNoBadBlock) return -1;
  const int64_t begin = block * block_size;
  const int64_t size = std::min(block_size, flat.numel() - begin);
  return begin +
         flat.narrow(0, begin, size).isfinite().logical_not().nonzero()[0][0].item<int64_t>();
}

}  // namespace qlora::quant
