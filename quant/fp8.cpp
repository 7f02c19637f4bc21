#include "quant/fp8.h"

#include <ATen/core/grad_mode.h>
#include <c10/core/DeviceGuard.h>

#include <algorithm>
#include <cmath>

#include "core/device.h"
#include "core/error.h"
#include "quant/checks.h"
#include "quant/float_math.h"
#include "quant/fp8_backend.h"
#include "quant/queue_rows.h"

namespace qlora::quant {
namespace {

/// Why a row has no scale.
void refuse_row(const float* w, int64_t cols, int64_t row) {
  float most = 0;
  for (int64_t k = 0; k < cols; ++k) {
    const float x = w[row * cols + k];
    QLORA_CHECK(is_finite_bits(float_bits(x)), ValueError,
                "[quant] weight row {} holds {}, allowed finite numbers; the checkpoint may be "
                "damaged",
                row, x);
    most = std::max(most, std::fabs(x));
  }
  throw ValueError(fmt::format(
      "[quant] row {} reaches {}, its scale leaves the type of the scales; choose another scale "
      "type or leave this matrix out",
      row, most));
}

}  // namespace

int64_t Fp8Tensor::size_bytes() const {
  return static_cast<int64_t>(codes.nbytes() + scales.nbytes());
}

Fp8Tensor quantize_fp8(const torch::Tensor& any_weight, Fp8Scaling scaling, ScaleType scale_type) {
  const at::NoGradGuard no_grad;
  check_weight(any_weight);
  QLORA_CHECK(any_weight.scalar_type() == torch::kFloat32 && any_weight.is_cpu(), ValueError,
              "[quant] weight is {} on {}, allowed f32 on the CPU",
              c10::toString(any_weight.scalar_type()), any_weight.device().str());
  const auto weight = any_weight.contiguous();
  const int64_t rows = weight.size(0), cols = weight.size(1);
  const bool per_row = scaling == Fp8Scaling::kRow;
  Fp8Tensor t;
  t.scale_type = scale_type;
  t.codes = torch::empty({rows, cols}, torch::kUInt8);
  t.scales =
      per_row ? torch::empty({rows, 1}, torch::kFloat32) : torch::empty({1}, torch::kFloat32);
  int64_t bad_row = rows;
  cpu::quantize_fp8({.weight = weight.const_data_ptr<float>(),
                     .rows = rows,
                     .cols = cols,
                     .scale_per_row = per_row,
                     .scale_type = scale_type,
                     .scales = t.scales.mutable_data_ptr<float>(),
                     .codes = t.codes.mutable_data_ptr<uint8_t>(),
                     .values = nullptr,
                     .first_bad_row = &bad_row});
  if (bad_row < rows) refuse_row(weight.const_data_ptr<float>(), cols, bad_row);
  return t;
}

namespace {

/// Rows [first_row, first_row + rows).
Fp8DequantArgs dequant_args(const Fp8Tensor& t, int64_t first_row, int64_t rows, void* out,
                            FloatKind out_kind, void* stream) {
  return {.codes = t.codes.const_data_ptr<uint8_t>() + first_row * t.cols(),
          .scales = t.scales.const_data_ptr<float>() + (t.per_row() ? first_row : 0),
          .scale_per_row = t.per_row(),
          .rows = rows,
          .cols = t.cols(),
          .out = out,
          .out_kind = out_kind,
          .stream = stream};
}

}  // namespace

void dequantize_fp8_into(const Fp8Tensor& t, const torch::Tensor& out) {
  check_out(out, t.rows(), t.cols(), t.codes);
  const c10::OptionalDeviceGuard guard(t.codes.device());
  const auto args = dequant_args(t, 0, t.rows(), out.mutable_data_ptr(),
                                 float_kind(out.scalar_type()), stream_of(t.codes));
  if (t.codes.is_cuda()) {
    cuda::dequantize_fp8(args);
  } else {
    cpu::dequantize_fp8(args);
  }
}

void queue_rows(const Fp8Tensor& t, int64_t first_row, int64_t rows, void* out, FloatKind kind,
                void* stream) {
  cuda::dequantize_fp8(dequant_args(t, first_row, rows, out, kind, stream));
}

torch::Tensor dequantize_fp8(const Fp8Tensor& t) {
  auto out = torch::empty({t.rows(), t.cols()}, t.codes.options().dtype(torch::kFloat32));
  dequantize_fp8_into(t, out);
  return out;
}

}  // namespace qlora::quant
