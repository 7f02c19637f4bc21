#include "quant/affine.h"

#include <ATen/core/grad_mode.h>
#include <c10/core/DeviceGuard.h>

#include <string>

#include "quant/affine_backend.h"
#include "quant/affine_composed.h"
#include "quant/affine_math.h"
#include "quant/checks.h"

namespace qlora::quant {
namespace {

void check_weight(const torch::Tensor& weight) {
  QLORA_CHECK(weight.defined() && weight.dim() == 2 && weight.numel() > 0, ShapeError,
              "[quant] weight has shape {}, allowed [N, K] with at least one element",
              weight.defined() ? c10::str(weight.sizes()) : "none");
  QLORA_CHECK(weight.scalar_type() == torch::kFloat32, ValueError,
              "[quant] weight is {}, allowed f32", c10::toString(weight.scalar_type()));
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

struct Grids {
  torch::Tensor scales, zeros, codes, values;
};

/// Grids of all groups, with codes and values where wanted.
Grids fit(const torch::Tensor& any_weight, const AffineOptions& o, bool codes, bool values) {
  check_weight(any_weight);
  const int64_t rows = any_weight.size(0), cols = any_weight.size(1);
  const int64_t size = checked_group_size(cols, o);
  const auto weight = any_weight.contiguous();
  if (!weight.is_cpu()) {
    const auto grids = composed::affine_grids(weight, size, o);
    const auto sound =
        grids.scales.isfinite().all(1).logical_and(weight.isfinite().all(1)).logical_not();
    const auto bad = sound.nonzero();
    if (bad.size(0) > 0) refuse_row(weight, bad[0][0].item<int64_t>(), o);
    Grids r{grids.scales, grids.zeros, {}, {}};
    const auto spread_scales = composed::spread(r.scales, cols, {});
    const auto spread_zeros = composed::spread(r.zeros, cols, {});
    r.codes = composed::affine_codes(weight, spread_scales, spread_zeros, o.bits);
    if (values) r.values = composed::affine_values(r.codes, spread_scales, spread_zeros);
    return r;
  }
  const int64_t groups = cols / size;
  Grids r;
  int64_t bad = rows;
  AffineArgs args{.weight = weight.const_data_ptr<float>(),
                  .rows = rows,
                  .cols = cols,
                  .group_size = size,
                  .groups = groups,
                  .options = o,
                  .first_bad_row = &bad};
  if (codes || !values) {
    r.scales = torch::empty({rows, groups}, weight.options());
    r.zeros = torch::empty({rows, groups}, weight.options().dtype(torch::kUInt8));
    args.scales = r.scales.mutable_data_ptr<float>();
    args.zeros = r.zeros.mutable_data_ptr<uint8_t>();
  }
  if (codes) {
    r.codes = torch::empty({rows, cols}, weight.options().dtype(torch::kUInt8));
    args.codes = r.codes.mutable_data_ptr<uint8_t>();
  }
  if (values) {
    r.values = torch::empty({rows, cols}, weight.options());
    args.values = r.values.mutable_data_ptr<float>();
  }
  if (codes || values) {
    cpu::affine_fit_and_round(args);
  } else {
    cpu::affine_grids(args);
  }
  if (bad < rows) refuse_row(weight, bad, o);
  return r;
}

/// Grids, and codes where `coded`, that fit each other: they may come from a file.
void check_tensor(const AffineTensor& t, int64_t rows, int64_t cols) {
  QLORA_CHECK(t.scales.defined() && t.scales.dim() == 2 && t.scales.size(0) == rows &&
                  t.scales.size(1) > 0 && t.zeros.defined() && t.zeros.sizes() == t.scales.sizes(),
              ShapeError, "[quant] scales have shape {} and zeros {}, allowed [{}, groups] of both",
              t.scales.defined() ? c10::str(t.scales.sizes()) : "none",
              t.zeros.defined() ? c10::str(t.zeros.sizes()) : "none", rows);
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

int64_t checked_group_size(int64_t cols, const AffineOptions& o) {
  QLORA_CHECK(o.bits == 2 || o.bits == 3 || o.bits == 4 || o.bits == 8, ConfigError,
              "[quant] bits is {}, allowed 2, 3, 4, 8", o.bits);
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
  Grids grids = fit(weight, options, false, false);
  return {.scales = grids.scales, .zeros = grids.zeros, .options = options};
}

AffineTensor quantize_affine(const torch::Tensor& weight, const AffineOptions& options) {
  const at::NoGradGuard no_grad;
  Grids grids = fit(weight, options, true, false);
  return {.codes = grids.codes, .scales = grids.scales, .zeros = grids.zeros, .options = options};
}

torch::Tensor round_to_grid(const torch::Tensor& weight, const AffineOptions& options) {
  const at::NoGradGuard no_grad;
  return fit(weight, options, false, true).values;
}

void requantize_affine(const torch::Tensor& weight, AffineTensor& t) {
  const at::NoGradGuard no_grad;
  check_weight(weight);
  checked_group_size(weight.size(1), {.bits = t.options.bits, .group_size = -1});
  check_tensor(t, weight.size(0), weight.size(1));
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
  QLORA_CHECK(t.codes.defined() && t.codes.dim() == 2 && t.codes.numel() > 0 &&
                  t.codes.scalar_type() == torch::kUInt8,
              ShapeError, "[quant] codes have shape {}, allowed u8 [N, K]",
              t.codes.defined() ? c10::str(t.codes.sizes()) : "none");
  check_tensor(t, t.rows(), t.cols());
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
