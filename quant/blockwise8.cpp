#include "quant/blockwise8.h"

#include <ATen/core/grad_mode.h>
#include <c10/core/DeviceGuard.h>

#include <bit>

#include "quant/blockwise8_backend.h"
#include "quant/checks.h"

namespace qlora::quant {

Blockwise8Tensor quantize_blockwise8(const torch::Tensor& values,
                                     const Blockwise8Options& options) {
  const at::NoGradGuard no_grad;
  QLORA_CHECK(values.defined() && values.numel() > 0, ShapeError,
              "[quant] values are empty, allowed at least one element");
  check_device(values, "values");
  const int64_t block_size = options.block_size;
  QLORA_CHECK(block_size >= 64 && block_size <= 4096 && std::has_single_bit(uint64_t(block_size)),
              ConfigError, "[quant] block_size is {}, allowed a power of two in [64, 4096]",
              block_size);
  const FloatKind kind = float_kind(values.scalar_type());
  const c10::OptionalDeviceGuard guard(values.device());

  const auto flat = values.contiguous().view(-1);
  Blockwise8Tensor t;
  t.map = options.map;
  t.block_size = block_size;
  t.codes = torch::empty(values.sizes(), flat.options().dtype(torch::kUInt8));
  t.absmax = torch::empty({(flat.numel() + block_size - 1) / block_size},
                          flat.options().dtype(torch::kFloat32));
  const auto first_bad_block = no_bad_block(flat);
  const Blockwise8QuantArgs args{.in = flat.const_data_ptr(),
                                 .in_kind = kind,
                                 .count = flat.numel(),
                                 .block_size = block_size,
                                 .map = t.map,
                                 .sign_rule = options.sign_rule,
                                 .codes = t.codes.mutable_data_ptr<uint8_t>(),
                                 .absmax = t.absmax.mutable_data_ptr<float>(),
                                 .first_bad_block = first_bad_block.mutable_data_ptr<int64_t>(),
                                 .stream = stream_of(flat)};
  if (flat.is_cuda()) {
    cuda::quantize_blockwise8(args);
  } else {
    cpu::quantize_blockwise8(args);
  }
  const int64_t bad = first_bad_element(flat, block_size, first_bad_block);
  QLORA_CHECK(bad < 0, ValueError, "[quant] element {} is {}, allowed finite numbers", bad,
              flat[bad].item<float>());
  return t;
}

void dequantize_blockwise8_into(const Blockwise8Tensor& t, const torch::Tensor& out) {
  QLORA_CHECK(out.is_contiguous() && out.numel() == t.codes.numel(), ShapeError,
              "[quant] out has shape {}{}, allowed a contiguous tensor of {} elements",
              c10::str(out.sizes()), out.is_contiguous() ? "" : " (not contiguous)",
              t.codes.numel());
  QLORA_CHECK(out.device() == t.codes.device(), DeviceError,
              "[quant] out is on {}, allowed {}, where the codes are", out.device().str(),
              t.codes.device().str());
  const c10::OptionalDeviceGuard guard(out.device());
  const Blockwise8DequantArgs args{.codes = t.codes.const_data_ptr<uint8_t>(),
                                   .absmax = t.absmax.const_data_ptr<float>(),
                                   .count = out.numel(),
                                   .block_size = t.block_size,
                                   .map = t.map,
                                   .out = out.mutable_data_ptr(),
                                   .out_kind = float_kind(out.scalar_type()),
                                   .stream = stream_of(out)};
  if (out.is_cuda()) {
    cuda::dequantize_blockwise8(args);
  } else {
    cpu::dequantize_blockwise8(args);
  }
}

torch::Tensor dequantize_blockwise8(const Blockwise8Tensor& t, torch::ScalarType dtype) {
  float_kind(dtype);  // refuses other types before memory is taken
  auto out = torch::empty(t.codes.sizes(), t.codes.options().dtype(dtype));
  dequantize_blockwise8_into(t, out);
  return out;
}

}  // namespace qlora::quant
