#include "quant/packed_affine.h"

#include <ATen/core/grad_mode.h>
#include <c10/core/DeviceGuard.h>

#include <algorithm>

#include "core/device.h"
#include "core/error.h"
#include "core/parallel.h"
#include "quant/affine_math.h"
#include "quant/checks.h"
#include "quant/gemv.h"
#include "quant/packed_affine_backend.h"
#include "quant/queue_rows.h"

namespace qlora::quant {

int64_t PackedAffine::size_bytes() const {
  const auto bytes = codes.nbytes() + scales.nbytes() + zeros.nbytes();
  return static_cast<int64_t>(bytes + (group_of.defined() ? group_of.nbytes() : 0));
}

PackedAffine pack_affine(const AffineTensor& t) {
  const at::NoGradGuard no_grad;
  check_affine(t);
  check_on_cpu(t.codes, "weight");
  PackedAffine p{.codes = {},
                 .scales = t.scales.to(torch_type(t.options.scale_type)).contiguous().clone(),
                 .zeros = t.zeros.contiguous().clone(),
                 .group_of = t.group_of.defined() ? t.group_of.contiguous().clone() : t.group_of,
                 .columns = t.cols(),
                 .bits = t.options.bits};
  if (t.options.bits == 8) {
    p.codes = t.codes.contiguous().clone();
    return p;
  }
  const auto most = t.codes.max().item<uint8_t>();
  QLORA_CHECK(most <= 15, ValueError, "[quant] a code is {}, allowed at most 15 below 8 bits",
              most);
  const auto codes = t.codes.contiguous();
  const int64_t cols = t.cols(), bytes = (cols + 1) / 2;
  p.codes = torch::empty({t.rows(), bytes}, torch::kUInt8);
  const uint8_t* from = codes.const_data_ptr<uint8_t>();
  uint8_t* to = p.codes.mutable_data_ptr<uint8_t>();
  parallel_for(t.rows(), std::max<int64_t>(1, (1 << 16) / cols), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const uint8_t* row = from + n * cols;
      for (int64_t j = 0; j < bytes; ++j) {
        const int high = 2 * j + 1 < cols ? row[2 * j + 1] << 4 : 0;
        to[n * bytes + j] = static_cast<uint8_t>(row[2 * j] | high);
      }
    }
  });
  return p;
}

AffineTensor unpack_affine(const PackedAffine& t) {
  const at::NoGradGuard no_grad;
  AffineTensor a;
  a.options.bits = t.bits;
  a.options.group_size = t.groups() == 1 ? -1 : (t.cols() + t.groups() - 1) / t.groups();
  a.options.scale_type = scale_type_of(t.scales.scalar_type()).value_or(ScaleType::kF32);
  a.scales = t.scales.to(torch::kFloat32, /*non_blocking=*/false, /*copy=*/true);
  a.zeros = t.zeros.clone();
  a.group_of = t.group_of.defined() ? t.group_of.clone() : t.group_of;
  a.codes = torch::empty({t.rows(), t.cols()}, torch::kUInt8);
  const uint8_t* from = t.codes.const_data_ptr<uint8_t>();
  uint8_t* to = a.codes.mutable_data_ptr<uint8_t>();
  for (int64_t n = 0; n < t.rows(); ++n) {
    for (int64_t k = 0; k < t.cols(); ++k) {
      to[n * t.cols() + k] = packed_code(from + n * t.codes.size(1), k, t.bits != 8);
    }
  }
  return a;
}

namespace {

/// Rows [first_row, first_row + rows).
PackedAffineArgs dequant_args(const PackedAffine& t, int64_t first_row, int64_t rows, void* out,
                              FloatKind out_kind, void* stream) {
  const int64_t scale_bytes = t.groups() * t.scales.element_size();
  return {
      .codes = t.codes.const_data_ptr<uint8_t>() + first_row * t.codes.size(1),
      .row_bytes = t.codes.size(1),
      .two_a_byte = t.bits != 8,
      .scales = static_cast<const std::byte*>(t.scales.const_data_ptr()) + first_row * scale_bytes,
      .scale_kind = float_kind(t.scales.scalar_type()),
      .zeros = t.zeros.const_data_ptr<uint8_t>() + first_row * t.groups(),
      .group_of = t.group_of.defined() ? t.group_of.const_data_ptr<int32_t>() : nullptr,
      .rows = rows,
      .cols = t.cols(),
      .groups = t.groups(),
      .group_size = t.cols() / t.groups(),
      .out = out,
      .out_kind = out_kind,
      .stream = stream};
}

}  // namespace

void dequantize_packed_into(const PackedAffine& t, const torch::Tensor& out) {
  check_out(out, t.rows(), t.cols(), t.codes);
  const c10::OptionalDeviceGuard guard(t.codes.device());
  const auto args = dequant_args(t, 0, t.rows(), out.mutable_data_ptr(),
                                 float_kind(out.scalar_type()), stream_of(t.codes));
  if (t.codes.is_cuda()) {
    cuda::dequantize_packed(args);
  } else {
    cpu::dequantize_packed(args);
  }
}

void gemv_into(const PackedAffine& weight, const torch::Tensor& x, const torch::Tensor& y) {
  const GemvVectors vectors = gemv_vectors(weight.codes, weight.rows(), weight.cols(), x, y);
  const c10::OptionalDeviceGuard guard(weight.codes.device());
  const PackedGemvArgs args{
      .weight = dequant_args(weight, 0, weight.rows(), nullptr, vectors.kind, nullptr),
      .vectors = vectors,
      .stream = stream_of(x)};
  weight.is_cuda() ? cuda::gemv_packed(args) : cpu::gemv_packed(args);
}

void queue_rows(const PackedAffine& t, int64_t first_row, int64_t rows, void* out, FloatKind kind,
                void* stream) {
  cuda::dequantize_packed(dequant_args(t, first_row, rows, out, kind, stream));
}

torch::Tensor dequantize_packed(const PackedAffine& t, torch::ScalarType dtype) {
  auto out = torch::empty({t.rows(), t.cols()}, t.codes.options().dtype(dtype));
  dequantize_packed_into(t, out);
  return out;
}

}  // namespace qlora::quant
