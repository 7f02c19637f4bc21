#include "lora/frozen_weight.h"

#include <ATen/ops/empty.h>

namespace qlora::lora {

namespace {

/// One buffer a thread and number type, as large as the largest weight asked for so far.
torch::Tensor scratch(int64_t rows, int64_t cols, torch::ScalarType dtype) {
  thread_local torch::Tensor buffer;
  const int64_t bytes = rows * cols * static_cast<int64_t>(c10::elementSize(dtype));
  if (!buffer.defined() || buffer.numel() < bytes) {
    buffer = at::empty({bytes}, torch::TensorOptions(torch::kUInt8));
  }
  return buffer.narrow(0, 0, bytes).view(dtype).view({rows, cols});
}

}  // namespace

torch::Tensor FrozenWeight::dense(torch::ScalarType dtype) const {
  if (!is_quantized()) return std::get<torch::Tensor>(storage_).to(dtype);
  torch::Tensor tile = scratch(rows(), cols(), dtype);
  quant::dequantize_nf4_into(quantized(), tile);
  return tile;
}

torch::Tensor FrozenWeight::dense_copy(torch::ScalarType dtype) const {
  if (!is_quantized()) return std::get<torch::Tensor>(storage_).to(dtype, false, /*copy=*/true);
  return quant::dequantize_nf4(quantized(), dtype);
}

int64_t FrozenWeight::rows() const {
  return is_quantized() ? quantized().rows() : std::get<torch::Tensor>(storage_).size(0);
}

int64_t FrozenWeight::cols() const {
  return is_quantized() ? quantized().cols() : std::get<torch::Tensor>(storage_).size(1);
}

int64_t FrozenWeight::bytes() const {
  if (is_quantized()) return quantized().size_bytes();
  const auto& dense = std::get<torch::Tensor>(storage_);
  return dense.defined() ? static_cast<int64_t>(dense.nbytes()) : 0;
}

}  // namespace qlora::lora
