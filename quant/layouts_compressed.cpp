// The layouts that keep the weight's own shape: compressed-tensors (integers and E4M3) and
// LLM.int8.
#include <ATen/core/grad_mode.h>

#include "quant/affine_math.h"
#include "quant/checks.h"
#include "quant/layouts.h"
#include "quant/layouts_parts.h"
#include "quant/layouts_streams.h"
#include "quant/packed_layout_math.h"

namespace qlora::quant {
namespace {

using namespace layouts;  // NOLINT: what all layouts share
using torch::Tensor;

/// Scales [N, groups]; one for the whole matrix is spread over the rows.
Tensor row_scales(Tensor scales, int64_t rows) {
  if (scales.numel() == 1) return scales.view({1, 1}).expand({rows, 1}).contiguous();
  if (scales.dim() == 1) scales = scales.view({-1, 1});
  QLORA_CHECK(scales.size(0) == rows, ShapeError,
              "[quant] weight_scale has shape {}, allowed [{}, groups]", c10::str(scales.sizes()),
              rows);
  return scales;
}

/// Signed numbers -> codes, by their own number of bits.
Tensor from_signed(const Tensor& t, int64_t bits) {
  const Tensor codes = t.to(torch::kInt32) + (int64_t{1} << (bits - 1));
  const auto least = codes.min().item<int32_t>(), most = codes.max().item<int32_t>();
  if (least < 0 || most > affine_max_code(bits)) {
    refuse("a signed number or zero point leaves {} bits", bits);
  }
  return codes.to(torch::kUInt8).contiguous();
}

/// Zero points [N, groups] of compressed-tensors: none, packed down the columns, or plain i8.
Tensor compressed_zeros(const TensorMap& tensors, c10::IntArrayRef sizes, int64_t bits) {
  const Tensor* found = find_tensor(tensors, "weight_zero_point");
  if (found == nullptr) {
    return torch::full(sizes, affine_max_code(bits) / 2 + 1, torch::kUInt8);
  }
  if (found->scalar_type() == torch::kInt32) {
    const Tensor& words = tensor_at(tensors, "weight_zero_point", torch::kInt32, 2);
    check_sizes("weight_zero_point", words, {stream_words(sizes[0], bits), sizes[1]});
    // The stream runs down N for every group: unpack_columns gives [groups, N].
    return unpack_columns(words, sizes[0], bits).t().contiguous();
  }
  const Tensor& zeros = *found;
  if (zeros.scalar_type() != torch::kInt8 || !zeros.is_contiguous()) {
    refuse("weight_zero_point is {}, allowed I32 and I8", c10::toString(zeros.scalar_type()));
  }
  if (zeros.numel() == 1) {
    return from_signed(zeros.view({1, 1}).expand(sizes).contiguous(), bits);
  }
  QLORA_CHECK(zeros.numel() == sizes[0] * sizes[1], ShapeError,
              "[quant] weight_zero_point has shape {}, allowed {}", c10::str(zeros.sizes()),
              c10::str(sizes));
  return from_signed(zeros.view(sizes), bits);
}

Tensor packed_codes(const TensorMap& tensors, int64_t bits) {
  const Tensor& words = tensor_at(tensors, "weight_packed", torch::kInt32, 2);
  const Tensor& shape = tensor_at(tensors, "weight_shape", torch::kInt64, 1);
  check_sizes("weight_shape", shape, {2});
  const int64_t rows = shape[0].item<int64_t>(), cols = shape[1].item<int64_t>();
  // The words bound the columns before anything is multiplied.
  if (rows != words.size(0) || cols < 1 || cols > words.size(1) * 32 ||
      stream_words(cols, bits) != words.size(1)) {
    refuse("weight_packed has shape {}, but weight_shape says [{}, {}] at {} bits",
           c10::str(words.sizes()), rows, cols, bits);
  }
  return unpack_rows(words, cols, bits);
}

}  // namespace

TensorMap to_compressed_tensors(const AffineTensor& t, CompressedFormat format) {
  const at::NoGradGuard no_grad;
  check_written(t);
  const int64_t bits = t.options.bits;
  TensorMap tensors = {{"weight_scale", written_scales(t.scales, t.options.scale_type)}};
  const bool symmetric = is_symmetric(t);
  if (t.group_of.defined()) tensors["weight_g_idx"] = t.group_of.contiguous();
  if (format == CompressedFormat::kIntQuantized) {
    QLORA_CHECK(bits == 8, ValueError, "[quant] bits is {}, the int-quantized layout holds 8",
                bits);
    const auto as_signed = [](const Tensor& codes) {  // code - 128, of the same bits but one
      return codes.bitwise_xor(128).contiguous().view(torch::kInt8);
    };
    tensors["weight"] = as_signed(t.codes);
    if (!symmetric) tensors["weight_zero_point"] = as_signed(t.zeros);
    return tensors;
  }
  tensors["weight_packed"] = pack_rows(t.codes.contiguous(), bits);
  tensors["weight_shape"] = torch::tensor({t.rows(), t.cols()}, torch::kInt64);
  if (!symmetric) tensors["weight_zero_point"] = pack_columns(t.zeros.t().contiguous(), bits);
  return tensors;
}

AffineTensor from_compressed_tensors(const TensorMap& tensors, CompressedFormat format,
                                     int64_t bits) {
  const at::NoGradGuard no_grad;
  check_bits<FormatError>(bits);
  AffineTensor t;
  t.options.bits = bits;
  if (format == CompressedFormat::kIntQuantized) {
    if (bits != 8) refuse("bits is {}, the int-quantized layout holds 8", bits);
    t.codes = from_signed(tensor_at(tensors, "weight", torch::kInt8, 2), 8);
  } else {
    t.codes = packed_codes(tensors, bits);
  }
  const auto [scales, scale_type] = scales_at(tensors, "weight_scale");
  t.options.scale_type = scale_type;
  t.scales = row_scales(scales, t.rows());
  const int64_t groups = t.groups(), size = (t.cols() + groups - 1) / groups;
  if (groups > t.cols() || (size * groups != t.cols() && !tensors.contains("weight_g_idx"))) {
    refuse("weight_scale has {} groups, which do not divide the {} columns", groups, t.cols());
  }
  t.options.group_size = groups == 1 ? -1 : size;
  t.zeros = compressed_zeros(tensors, t.scales.sizes(), bits);
  t.group_of = groups_at(tensors, "weight_g_idx", t.cols(), groups, size);
  set_rule(t);
  return t;
}

TensorMap to_float_quantized(const Fp8Tensor& t) {
  const at::NoGradGuard no_grad;
  QLORA_CHECK(t.codes.defined() && t.codes.dim() == 2 && t.codes.numel() > 0 &&
                  t.codes.scalar_type() == torch::kUInt8 && t.scales.defined() &&
                  t.scales.scalar_type() == torch::kFloat32 &&
                  (t.scales.numel() == 1 || t.scales.numel() == t.rows()),
              ShapeError,
              "[quant] an FP8 weight needs codes u8 [N, K] and scales f32 [N, 1] or [1]");
  TensorMap tensors = {{"weight", t.codes.contiguous().view(torch::kFloat8_e4m3fn)},
                       {"weight_scale", written_scales(t.scales, t.scale_type)}};
  if (t.input_scale.defined()) tensors["input_scale"] = written_scales(t.input_scale, t.scale_type);
  return tensors;
}

Fp8Tensor from_float_quantized(const TensorMap& tensors) {
  const at::NoGradGuard no_grad;
  const Tensor& weight = tensor_at(tensors, "weight", torch::kFloat8_e4m3fn, 2);
  Fp8Tensor t;
  t.codes = weight.view(torch::kUInt8).clone();
  if ((t.codes.bitwise_and(127) == 127).any().item<bool>()) refuse("weight holds NaN");
  const auto [scales, scale_type] = scales_at(tensors, "weight_scale");
  t.scale_type = scale_type;
  QLORA_CHECK(scales.numel() == 1 || (scales.numel() == t.rows() && scales.size(0) == t.rows()),
              ShapeError, "[quant] weight_scale has shape {}, allowed [1] and [{}, 1]",
              c10::str(scales.sizes()), t.rows());
  const bool whole = scales.numel() == 1 && (scales.dim() < 2 || t.rows() > 1);
  t.scales = whole ? scales.view({1}) : scales.view({-1, 1});
  if (tensors.contains("input_scale")) {
    const Tensor scale = scales_at(tensors, "input_scale").values;
    if (scale.numel() != 1 || !(scale.item<float>() > 0)) {
      refuse("input_scale has shape {}, allowed one positive number", c10::str(scale.sizes()));
    }
    t.input_scale = scale.view({1});
  }
  return t;
}

AffineTensor from_llm_int8(const TensorMap& tensors) {
  const at::NoGradGuard no_grad;
  AffineTensor t;
  t.options = {
      .bits = 8, .group_size = -1, .rule = GridRule::kSymmetric, .scale_type = ScaleType::kF32};
  t.codes = from_signed(tensor_at(tensors, "weight", torch::kInt8, 2), 8);
  const Tensor absmax = scales_at(tensors, "SCB").values;
  QLORA_CHECK(absmax.numel() == t.rows(), ShapeError, "[quant] SCB has shape {}, allowed [{}]",
              c10::str(absmax.sizes()), t.rows());
  t.scales = absmax.view({-1, 1}).div(127.0);
  t.zeros = torch::full({t.rows(), 1}, 128, torch::kUInt8);
  return t;
}

}  // namespace qlora::quant
