#include "quant/affine.h"

#include <ATen/core/grad_mode.h>

#include <string>

#include "quant/affine_backend.h"
#include "quant/affine_composed.h"
#include "quant/affine_math.h"
#include "quant/checks.h"

namespace qlora::quant {
namespace {

void check_affine_input(const torch::Tensor& weight) {
  check_weight(weight);
  check_f32(weight);
  check_device(weight, "weight");
}

std::string group_sizes_of(int64_t cols) {
  std::string sizes;
  for (const int64_t size : {1024, 512, 256, 128, 64, 32, 16}) {
    if (cols % size == 0) sizes += fmt::format("{}, ", size);
  }
  return sizes + "-1 (the whole row)";
}

/// Says which element or which scale is at fault.
[[noreturn]] void refuse_row(const torch::Tensor& weight, int64_t row, const AffineOptions& o) {
  const auto bad = weight[row].isfinite().logical_not().nonzero();
  if (bad.size(0) > 0) {
    const int64_t col = bad[0][0].item<int64_t>();
    throw ValueError(fmt::format(
        "[quant] weight element [{}, {}] is {}, allowed finite numbers; the checkpoint may be "
        "damaged",
        row, col, weight[row][col].item<float>()));
  }
  const char* type = EnumNames<ScaleType>::kNames[static_cast<int>(o.scale_type)].second;
  throw ValueError(
      fmt::format("[quant] row {} reaches {}, its scale at {} bits leaves {}, allowed weights that "
                  "fit; choose another scale type or leave this matrix out",
                  row, weight[row].abs().max().item<float>(), o.bits, type));
}

/// What is made of a weight beside the check that all of it can be.
enum class Wanted { kGrids, kCodes, kValues };

struct Fitted {
  torch::Tensor scales, zeros;  // undefined on the CPU where values alone are wanted
  torch::Tensor codes, values;  // as wanted
};

Fitted fit_composed(const torch::Tensor& weight, int64_t group_size, const AffineOptions& o,
                    Wanted wanted) {
  const int64_t cols = weight.size(1);
  const auto grids = composed::affine_grids(weight, group_size, o);
  const auto is_sound = grids.scales.isfinite().all(1).logical_and(weight.isfinite().all(1));
  const auto bad = is_sound.logical_not().nonzero();
  if (bad.size(0) > 0) refuse_row(weight, bad[0][0].item<int64_t>(), o);
  Fitted r{grids.scales, grids.zeros, {}, {}};
  if (wanted == Wanted::kGrids) return r;
  const auto scales = composed::spread(r.scales, cols, {});
  const auto zeros = composed::spread(r.zeros, cols, {});
  r.codes = composed::affine_codes(weight, scales, zeros, o.bits);
  if (wanted == Wanted::kValues) r.values = composed::affine_values(r.codes, scales, zeros);
  return r;
}

Fitted fit_on_cpu(const torch::Tensor& weight, int64_t group_size, const AffineOptions& o,
                  Wanted wanted) {
  const int64_t rows = weight.size(0), cols = weight.size(1), groups = cols / group_size;
  const auto bytes = weight.options().dtype(torch::kUInt8);
  Fitted r;
  int64_t bad = rows;
  AffineArgs args{.weight = weight.const_data_ptr<float>(),
                  .rows = rows,
                  .cols = cols,
                  .group_size = group_size,
                  .groups = groups,
                  .options = o,
                  .first_bad_row = &bad};
  if (wanted == Wanted::kValues) {
    r.values = torch::empty({rows, cols}, weight.options());
    args.values = r.values.mutable_data_ptr<float>();
  } else {
    r.scales = torch::empty({rows, groups}, weight.options());
    r.zeros = torch::empty({rows, groups}, bytes);
    args.scales = r.scales.mutable_data_ptr<float>();
    args.zeros = r.zeros.mutable_data_ptr<uint8_t>();
  }
  if (wanted == Wanted::kCodes) {
    r.codes = torch::empty({rows, cols}, bytes);
    args.codes = r.codes.mutable_data_ptr<uint8_t>();
  }
  if (wanted == Wanted::kGrids) {
    cpu::affine_grids(args);
  } else {
    cpu::affine_fit_and_round(args);
  }
  if (bad < rows) refuse_row(weight, bad, o);
  return r;
}

Fitted fit(const torch::Tensor& any_weight, const AffineOptions& o, Wanted wanted) {
  check_affine_input(any_weight);
  const int64_t group_size = checked_group_size(any_weight.size(1), o);
  const auto weight = any_weight.contiguous();
  return weight.is_cpu() ? fit_on_cpu(weight, group_size, o, wanted)
                         : fit_composed(weight, group_size, o, wanted);
}

/// The grids of a matrix [rows, cols]: they may come from a file.
void check_grids(const AffineTensor& t, int64_t rows, int64_t cols) {
  QLORA_CHECK(t.scales.defined() && t.scales.dim() == 2 && t.scales.size(0) == rows &&
                  t.scales.size(1) > 0 && t.zeros.defined() && t.zeros.sizes() == t.scales.sizes(),
              ShapeError, "[quant] scales have shape {} and zeros {}, allowed [{}, groups] of both",
              shape_text(t.scales), shape_text(t.zeros), rows);
  QLORA_CHECK(t.scales.scalar_type() == torch::kFloat32 && t.zeros.scalar_type() == torch::kUInt8,
              ValueError, "[quant] scales are {} and zeros {}, allowed f32 and u8",
              c10::toString(t.scales.scalar_type()), c10::toString(t.zeros.scalar_type()));
  if (!t.group_of.defined()) {
    QLORA_CHECK(cols % t.groups() == 0, ShapeError,
                "[quant] {} columns have {} groups, allowed a divisor of the columns", cols,
                t.groups());
    return;
  }
  QLORA_CHECK(t.group_of.dim() == 1 && t.group_of.size(0) == cols &&
                  t.group_of.scalar_type() == torch::kInt32,
              ShapeError, "[quant] group_of is {} {}, allowed i32 [{}]",
              c10::toString(t.group_of.scalar_type()), c10::str(t.group_of.sizes()), cols);
  const auto least = t.group_of.min().item<int32_t>(), most = t.group_of.max().item<int32_t>();
  QLORA_CHECK(least >= 0 && most < t.groups(), ValueError,
              "[quant] group_of holds {} to {}, allowed 0 to {}", least, most, t.groups() - 1);
}

AffineArgs given_grids(const AffineTensor& t, const torch::Tensor& scales,
                       const torch::Tensor& zeros, const torch::Tensor& group_of, int64_t cols) {
  return {.rows = scales.size(0),
          .cols = cols,
          .group_size = cols / scales.size(1),
          .groups = scales.size(1),
          .group_of = group_of.defined() ? group_of.const_data_ptr<int32_t>() : nullptr,
          .options = t.options,
          .scales = scales.mutable_data_ptr<float>(),
          .zeros = zeros.mutable_data_ptr<uint8_t>()};
}

torch::Tensor contiguous_or_none(const torch::Tensor& t) {
  return t.defined() ? t.contiguous() : t;
}

}  // namespace

torch::ScalarType torch_type(ScaleType type) {
  switch (type) {
    case ScaleType::kF16:
      return torch::kFloat16;
    case ScaleType::kBF16:
      return torch::kBFloat16;
    case ScaleType::kF32:
      break;
  }
  return torch::kFloat32;
}

std::optional<ScaleType> scale_type_of(torch::ScalarType type) {
  for (const ScaleType candidate : {ScaleType::kF16, ScaleType::kBF16, ScaleType::kF32}) {
    if (torch_type(candidate) == type) return candidate;
  }
  return {};
}

void check_affine(const AffineTensor& t) {
  QLORA_CHECK(t.codes.defined() && t.codes.dim() == 2 && t.codes.numel() > 0 &&
                  t.codes.scalar_type() == torch::kUInt8,
              ShapeError, "[quant] codes have shape {}, allowed u8 [N, K]", shape_text(t.codes));
  check_grids(t, t.rows(), t.cols());
}

int64_t checked_group_size(int64_t cols, const AffineOptions& o) {
  check_bits<ConfigError>(o.bits);
  QLORA_CHECK(o.group_size >= 1 || o.group_size == -1, ConfigError,
              "[quant] group_size is {}, allowed at least 1, or -1 for the whole row",
              o.group_size);
  QLORA_CHECK(o.least_zero >= 0 && o.least_zero < affine_max_code(o.bits), ConfigError,
              "[quant] least_zero is {}, allowed 0 to {} at {} bits", o.least_zero,
              affine_max_code(o.bits) - 1, o.bits);
  const int64_t size = o.group_size == -1 ? cols : o.group_size;
  QLORA_CHECK(size > 0 && cols % size == 0, ShapeError,
              "[quant] group_size {} does not divide the {} columns of the weight; these do: {}",
              size, cols, group_sizes_of(cols));
  return size;
}

AffineTensor affine_grids(const torch::Tensor& weight, const AffineOptions& options) {
  const at::NoGradGuard no_grad;
  const Fitted grids = fit(weight, options, Wanted::kGrids);
  return {.scales = grids.scales, .zeros = grids.zeros, .options = options};
}

AffineTensor quantize_affine(const torch::Tensor& weight, const AffineOptions& options) {
  const at::NoGradGuard no_grad;
  const Fitted r = fit(weight, options, Wanted::kCodes);
  return {.codes = r.codes, .scales = r.scales, .zeros = r.zeros, .options = options};
}

torch::Tensor round_to_grid(const torch::Tensor& weight, const AffineOptions& options) {
  const at::NoGradGuard no_grad;
  return fit(weight, options, Wanted::kValues).values;
}

void requantize_affine(const torch::Tensor& weight, AffineTensor& t) {
  const at::NoGradGuard no_grad;
  check_affine_input(weight);
  checked_group_size(weight.size(1), {.bits = t.options.bits, .group_size = -1});
  check_grids(t, weight.size(0), weight.size(1));
  if (!weight.is_cpu()) {
    t.codes = composed::affine_codes(weight, composed::spread(t.scales, weight.size(1), t.group_of),
                                     composed::spread(t.zeros, weight.size(1), t.group_of),
                                     t.options.bits);
    return;
  }
  const auto w = weight.contiguous(), scales = t.scales.contiguous(), zeros = t.zeros.contiguous();
  const auto group_of = contiguous_or_none(t.group_of);
  t.codes = torch::empty(w.sizes(), w.options().dtype(torch::kUInt8));
  AffineArgs args = given_grids(t, scales, zeros, group_of, w.size(1));
  args.weight = w.const_data_ptr<float>();
  args.codes = t.codes.mutable_data_ptr<uint8_t>();
  cpu::affine_round(args);
}

torch::Tensor dequantize_affine(const AffineTensor& t) {
  const at::NoGradGuard no_grad;
  check_affine(t);
  if (!t.codes.is_cpu()) {
    return composed::affine_values(t.codes, composed::spread(t.scales, t.cols(), t.group_of),
                                   composed::spread(t.zeros, t.cols(), t.group_of));
  }
  const auto codes = t.codes.contiguous(), scales = t.scales.contiguous();
  const auto zeros = t.zeros.contiguous(), group_of = contiguous_or_none(t.group_of);
  auto values = torch::empty(codes.sizes(), scales.options());
  AffineArgs args = given_grids(t, scales, zeros, group_of, t.cols());
  args.codes = codes.mutable_data_ptr<uint8_t>();
  args.values = values.mutable_data_ptr<float>();
  cpu::affine_values(args);
  return values;
}

}  // namespace qlora::quant
