#include "quant/nf4.h"

#include <ATen/core/grad_mode.h>
#include <c10/core/DeviceGuard.h>

#include <bit>

#include "quant/blockwise8.h"
#include "quant/checks.h"
#include "quant/gemv.h"
#include "quant/nf4_backend.h"
#include "quant/queue_rows.h"

namespace qlora::quant {
namespace {

int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

void check_block_size(int64_t block_size) {
  QLORA_CHECK(block_size >= 32 && block_size <= 4096 && std::has_single_bit(uint64_t(block_size)),
              ConfigError, "[quant] block_size is {}, allowed a power of two in [32, 4096]",
              block_size);
}

/// Replaces exact scales by 8-bit codes around their mean (QLoRA, section 3, double quantization).
void quantize_scales(const torch::Tensor& absmax, Nf4Tensor& t) {
  const auto mean = torch::empty({1}, absmax.options());
  const auto scratch =
      torch::empty({mean_scratch_size(absmax.numel())}, absmax.options().dtype(torch::kFloat64));
  const MeanArgs args{absmax.const_data_ptr<float>(), absmax.numel(),
                      scratch.mutable_data_ptr<double>(), mean.mutable_data_ptr<float>(),
                      stream_of(absmax)};
  if (absmax.is_cuda()) {
    cuda::mean(args);
  } else {
    cpu::mean(args);
  }
  t.offset = mean.item<float>();
  const Blockwise8Tensor nested = quantize_blockwise8(
      absmax - mean, {.map = DynamicMap::kSigned, .block_size = kNestedBlockSize});
  t.absmax_codes = nested.codes;
  t.nested_absmax = nested.absmax;
}

Nf4DequantArgs dequant_args(const Nf4Tensor& t, int64_t row_begin, int64_t row_count, void* out,
                            FloatKind out_kind, void* stream) {
  Nf4Scales scales;
  if (t.is_double_quantized()) {
    scales = {nullptr, t.absmax_codes.const_data_ptr<uint8_t>(),
              t.nested_absmax.const_data_ptr<float>(), t.offset};
  } else {
    scales.absmax = t.absmax.const_data_ptr<float>();
  }
  return {.codes = t.codes.const_data_ptr<uint8_t>(),
          .scales = scales,
          .type = t.quant_type,
          .block_size = t.block_size,
          .begin = row_begin * t.cols(),
          .count = row_count * t.cols(),
          .out = out,
          .out_kind = out_kind,
          .stream = stream};
}

}  // namespace

int64_t Nf4Tensor::size_bytes() const {
  int64_t bytes = 0;
  for (const auto* tensor : {&codes, &absmax, &absmax_codes, &nested_absmax}) {
    if (tensor->defined()) bytes += static_cast<int64_t>(tensor->nbytes());
  }
  return bytes;
}

Nf4Tensor Nf4Tensor::to(torch::Device device) const {
  Nf4Tensor moved = *this;
  for (auto* tensor : {&moved.codes, &moved.absmax, &moved.absmax_codes, &moved.nested_absmax}) {
    if (tensor->defined()) *tensor = tensor->to(device);
  }
  return moved;
}

Nf4Tensor quantize_nf4(const torch::Tensor& weight, const Nf4Options& options) {
  const at::NoGradGuard no_grad;
  check_weight(weight);
  check_device(weight, "weight");
  check_block_size(options.block_size);
  const FloatKind kind = float_kind(weight.scalar_type());
  const c10::OptionalDeviceGuard guard(weight.device());

  const auto flat = weight.contiguous().view(-1);
  const int64_t count = flat.numel();
  Nf4Tensor t;
  t.shape = {weight.size(0), weight.size(1)};
  t.block_size = options.block_size;
  t.quant_type = options.quant_type;
  t.source_dtype = weight.scalar_type();
  t.codes = torch::empty({ceil_div(count, 2)}, flat.options().dtype(torch::kUInt8));
  const auto absmax =
      torch::empty({ceil_div(count, t.block_size)}, flat.options().dtype(torch::kFloat32));
  const auto first_bad_block = no_bad_block(flat);

  const Nf4QuantArgs args{.in = flat.const_data_ptr(),
                          .in_kind = kind,
                          .count = count,
                          .block_size = t.block_size,
                          .type = t.quant_type,
                          .codes = t.codes.mutable_data_ptr<uint8_t>(),
                          .absmax = absmax.mutable_data_ptr<float>(),
                          .first_bad_block = first_bad_block.mutable_data_ptr<int64_t>(),
                          .stream = stream_of(flat)};
  if (flat.is_cuda()) {
    cuda::quantize_nf4(args);
  } else {
    cpu::quantize_nf4(args);
  }
  const int64_t bad = first_bad_element(flat, t.block_size, first_bad_block);
  QLORA_CHECK(
      bad < 0, ValueError,
      "[quant] weight element [{}, {}] is {}, allowed finite numbers; the checkpoint may be "
      "damaged",
      bad / t.cols(), bad % t.cols(), flat[bad].item<float>());

  if (options.double_quant) {
    quantize_scales(absmax, t);
  } else {
    t.absmax = absmax;
  }
  return t;
}

void dequantize_nf4_rows_into(const Nf4Tensor& t, int64_t row_begin, int64_t row_count,
                              const torch::Tensor& out) {
  QLORA_CHECK(row_begin >= 0 && row_count >= 0 && row_begin <= t.rows() - row_count, ShapeError,
              "[quant] {} rows from row {} wanted, allowed within [0, {})", row_count, row_begin,
              t.rows());
  check_out(out, row_count, t.cols(), t.codes);
  const c10::OptionalDeviceGuard guard(t.device());
  const Nf4DequantArgs args = dequant_args(t, row_begin, row_count, out.mutable_data_ptr(),
                                           float_kind(out.scalar_type()), stream_of(out));
  if (t.is_cuda()) {
    cuda::dequantize_nf4(args);
  } else {
    cpu::dequantize_nf4(args);
  }
}

void queue_rows(const Nf4Tensor& t, int64_t first_row, int64_t rows, void* out, FloatKind kind,
                void* stream) {
  cuda::dequantize_nf4(dequant_args(t, first_row, rows, out, kind, stream));
}

void gemv_into(const Nf4Tensor& weight, const torch::Tensor& x, const torch::Tensor& y) {
  const GemvVectors vectors = gemv_vectors(weight.codes, weight.rows(), weight.cols(), x, y);
  const c10::OptionalDeviceGuard guard(weight.device());
  const auto all = dequant_args(weight, 0, weight.rows(), nullptr, vectors.kind, nullptr);
  const Nf4GemvArgs args{.codes = all.codes,
                         .scales = all.scales,
                         .type = all.type,
                         .block_size = all.block_size,
                         .rows = weight.rows(),
                         .cols = weight.cols(),
                         .vectors = vectors,
                         .stream = stream_of(x)};
  weight.is_cuda() ? cuda::gemv_nf4(args) : cpu::gemv_nf4(args);
}

void dequantize_nf4_into(const Nf4Tensor& t, const torch::Tensor& out) {
  dequantize_nf4_rows_into(t, 0, t.rows(), out);
}

torch::Tensor dequantize_nf4(const Nf4Tensor& t, torch::ScalarType dtype) {
  float_kind(dtype);  // refuses other types before memory is taken
  auto out = torch::empty({t.rows(), t.cols()}, t.codes.options().dtype(dtype));
  dequantize_nf4_into(t, out);
  return out;
}

}  // namespace qlora::quant
