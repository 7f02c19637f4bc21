#include "lora/frozen_weight.h"

#include <ATen/ops/empty.h>

#include "lora/scratch.h"
#include "lora/weight_device.h"

namespace qlora::lora {

namespace {

void decode_into(const torch::Tensor& from, const torch::Tensor& out) {
  out.copy_(from);
}
void decode_into(const quant::Nf4Tensor& from, const torch::Tensor& out) {
  quant::dequantize_nf4_into(from, out);
}
void decode_into(const quant::PackedAffine& from, const torch::Tensor& out) {
  quant::dequantize_packed_into(from, out);
}
void decode_into(const quant::Fp8Tensor& from, const torch::Tensor& out) {
  quant::dequantize_fp8_into(from, out);
}

int64_t rows_of(const torch::Tensor& t) {
  return t.size(0);
}
int64_t cols_of(const torch::Tensor& t) {
  return t.size(1);
}
int64_t bytes_of(const torch::Tensor& t) {
  return t.defined() ? static_cast<int64_t>(t.nbytes()) : 0;
}
template <class T>
int64_t rows_of(const T& t) {
  return t.rows();
}
template <class T>
int64_t cols_of(const T& t) {
  return t.cols();
}
template <class T>
int64_t bytes_of(const T& t) {
  return t.size_bytes();
}

}  // namespace

torch::Tensor FrozenWeight::dense(torch::ScalarType dtype) const {
  if (!is_quantized()) return as<torch::Tensor>().to(dtype);
  if (!device_of(*this).is_cpu()) return dense_copy(dtype);
  torch::Tensor tile = weight_scratch(rows(), cols(), dtype);
  std::visit([&](const auto& held) { decode_into(held, tile); }, storage_);
  return tile;
}

torch::Tensor FrozenWeight::dense_copy(torch::ScalarType dtype) const {
  torch::Tensor out =
      at::empty({rows(), cols()}, torch::TensorOptions(device_of(*this)).dtype(dtype));
  std::visit([&](const auto& held) { decode_into(held, out); }, storage_);
  return out;
}

int64_t FrozenWeight::rows() const {
  return std::visit([](const auto& held) { return rows_of(held); }, storage_);
}

int64_t FrozenWeight::cols() const {
  return std::visit([](const auto& held) { return cols_of(held); }, storage_);
}

int64_t FrozenWeight::bytes() const {
  return std::visit([](const auto& held) { return bytes_of(held); }, storage_);
}

}  // namespace qlora::lora
