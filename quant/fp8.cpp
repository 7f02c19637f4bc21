#include "quant/fp8.h"

#include <ATen/core/grad_mode.h>
#include <c10/core/DeviceGuard.h>

#include "core/device.h"
#include "core/error.h"
#include "quant/affine_math.h"
#include "quant/checks.h"
#include "quant/fp8_backend.h"
#include "quant/fp8_math.h"

namespace qlora::quant {
namespace {

float absmax_of(const float* x, int64_t count) {
  float most = 0;
  for (int64_t i = 0; i < count; ++i) {
    const float magnitude = std::fabs(x[i]);
    most = magnitude > most || magnitude != magnitude ? magnitude : most;
    if (!is_finite_bits(float_bits(most))) break;
  }
  return most;
}

float fp8_scale(float absmax, int64_t row, ScaleType type) {
  QLORA_CHECK(is_finite_bits(float_bits(absmax)), ValueError,
              "[quant] weight row {} holds {}, allowed finite numbers; the checkpoint may be "
              "damaged",
              row, absmax);
  const float scale = rounded_scale(absmax / kFp8Max, type);
  QLORA_CHECK(is_finite_bits(float_bits(scale)), ValueError,
              "[quant] row {} reaches {}, its scale leaves the type of the scales; choose another "
              "scale type or leave this matrix out",
              row, absmax);
  return scale;
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
  const float* w = weight.const_data_ptr<float>();
  Fp8Tensor t;
  t.scale_type = scale_type;
  t.codes = torch::empty({rows, cols}, torch::kUInt8);
  const bool per_row = scaling == Fp8Scaling::kRow;
  t.scales =
      per_row ? torch::empty({rows, 1}, torch::kFloat32) : torch::empty({1}, torch::kFloat32);
  float* scales = t.scales.mutable_data_ptr<float>();
  float most = 0;
  for (int64_t n = 0; n < rows; ++n) {
    const float absmax = absmax_of(w + n * cols, cols);
    const float scale = fp8_scale(absmax, n, scale_type);
    if (per_row) scales[n] = scale;
    most = absmax > most ? absmax : most;
  }
  if (!per_row) scales[0] = fp8_scale(most, 0, scale_type);
  uint8_t* codes = t.codes.mutable_data_ptr<uint8_t>();
  for (int64_t n = 0; n < rows; ++n) {
    const float scale = scales[per_row ? n : 0];
    for (int64_t i = n * cols; i < (n + 1) * cols; ++i) codes[i] = float_to_fp8(w[i] / scale);
  }
  return t;
}

void dequantize_fp8_into(const Fp8Tensor& t, const torch::Tensor& out) {
  check_out(out, t.rows(), t.cols(), t.codes);
  const c10::OptionalDeviceGuard guard(t.codes.device());
  const Fp8DequantArgs args{.codes = t.codes.const_data_ptr<uint8_t>(),
                            .scales = t.scales.const_data_ptr<float>(),
                            .scale_per_row = t.per_row(),
                            .rows = t.rows(),
                            .cols = t.cols(),
                            .out = out.mutable_data_ptr(),
                            .out_kind = float_kind(out.scalar_type()),
                            .stream = stream_of(t.codes)};
  if (t.codes.is_cuda()) {
    cuda::dequantize_fp8(args);
  } else {
    cpu::dequantize_fp8(args);
  }
}

torch::Tensor dequantize_fp8(const Fp8Tensor& t) {
  auto out = torch::empty({t.rows(), t.cols()}, t.codes.options().dtype(torch::kFloat32));
  dequantize_fp8_into(t, out);
  return out;
}

}  // namespace qlora::quant
