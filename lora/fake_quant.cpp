#include "lora/fake_quant.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <vector>

#include "core/device.h"
#include "core/error.h"
#include "core/parallel.h"
#include "lora/lora_sum_backend.h"
#include "lora/merge.h"
#include "lora/merge_backend.h"
#include "lora/rounded_weight.h"
#include "lora/scratch.h"
#include "quant/affine.h"
#include "quant/affine_backend.h"
#include "quant/affine_gradient_backend.h"
#include "quant/affine_gradient_math.h"
#include "quant/fp8.h"

namespace qlora::lora {
namespace {

using torch::Tensor;

/// Elements of the merged weight that exist at once in each thread: buffers of 64 KB.
constexpr int64_t kTileElements = 1 << 14;

constexpr float kLeapBelow = -0.1F;  // a factor below it was not led there by small steps

/// A and B as files hold them, as floats.
struct FiledAdapter {
  Tensor a, b;
  float scale = 0;

  explicit FiledAdapter(const Adapter* adapter) {
    if (adapter == nullptr) return;
    const auto as_filed = [&](const Tensor& master) {
      return master.detach().to(adapter->dtype).to(torch::kFloat32).contiguous();
    };
    a = as_filed(adapter->a);
    b = as_filed(adapter->b);
    scale = static_cast<float>(adapter->scale);
  }
};

void* row_of(const Tensor& matrix, int64_t row) {
  return static_cast<std::byte*>(matrix.mutable_data_ptr()) +
         row * matrix.size(1) * matrix.element_size();
}

void convert(const void* from, FloatKind from_kind, void* to, FloatKind to_kind, int64_t count) {
  cpu::lora_sum({.base = from,
                 .y = to,
                 .tokens = 1,
                 .width = count,
                 .in_kind = from_kind,
                 .out_kind = to_kind});
}

void convert_rows(const Tensor& from, int64_t row, int64_t count, float* to) {
  convert(row_of(from, row), float_kind(from.scalar_type()), to, FloatKind::kF32,
          count * from.size(1));
}

void convert_rows(const float* from, const Tensor& to, int64_t row, int64_t count) {
  convert(from, FloatKind::kF32, row_of(to, row), float_kind(to.scalar_type()), count * to.size(1));
}

/// Merges a weight some rows at a time, out of a cache, and hands them on.
class TiledMerge {
 public:
  TiledMerge(const FrozenWeight& weight, const Adapter* adapter)
      : weight_(weight), adapter_(adapter) {
    if (weight.holds<Tensor>()) dense_ = weight.as<Tensor>().contiguous();
  }

  /// body(row, count, values, spare): values [count, K] merged, spare as large.
  template <class Body>
  void run(const Body& body) const {
    const int64_t rows = weight_.rows(), cols = weight_.cols(),
                  tile = std::max<int64_t>(1, kTileElements / cols);
    parallel_for((rows + tile - 1) / tile, 1, [&](int64_t begin, int64_t end) {
      std::vector<float> base(tile * cols), merged(tile * cols);
      for (int64_t t = begin; t < end; ++t) {
        const int64_t row = t * tile, count = std::min(tile, rows - row);
        read_rows(row, count, base.data());
        if (!adapter_.a.defined()) {
          body(row, count, base.data(), merged.data());
          continue;
        }
        cpu::merge({.weight = base.data(),
                    .a = adapter_.a.const_data_ptr<float>(),
                    .b = adapter_.b.const_data_ptr<float>() + row * adapter_.b.size(1),
                    .out = merged.data(),
                    .rows = count,
                    .cols = cols,
                    .rank = adapter_.b.size(1),
                    .scale = adapter_.scale});
        body(row, count, merged.data(), base.data());
      }
    });
  }

 private:
  void read_rows(int64_t row, int64_t count, float* into) const {
    const int64_t cols = weight_.cols();
    if (dense_.defined()) {
      convert_rows(dense_, row, count, into);
    } else {
      const Tensor view = at::from_blob(into, {count, cols}, torch::TensorOptions(torch::kFloat32));
      quant::dequantize_nf4_rows_into(weight_.as<quant::Nf4Tensor>(), row, count, view);
    }
  }

  const FrozenWeight& weight_;
  FiledAdapter adapter_;
  Tensor dense_;
};

/// The least row that any thread has found fault with.
class FirstBadRow {
 public:
  explicit FirstBadRow(int64_t rows) : rows_(rows), row_(rows) {}
  void lower_to(int64_t row) {
    int64_t seen = row_;
    while (row < seen && !row_.compare_exchange_weak(seen, row)) {
    }
  }
  void check() const {
    QLORA_CHECK(
        row_ == rows_, ValueError,
        "[lora] row {} of a merged weight holds a number or asks for a scale that is not finite "
        "in the grid's type; lower the learning rate, or leave the module to 16 bits "
        "(skip_modules) where its base is so",
        row_.load());
  }

 private:
  int64_t rows_;
  std::atomic<int64_t> row_;
};

bool all_finite(const float* values, int64_t count) {
  constexpr int64_t kChains = 16;
  float sums[kChains] = {};  // of zeros, unless a number is not finite
  int64_t i = 0;
  for (; i + kChains <= count; i += kChains) {
    for (int64_t lane = 0; lane < kChains; ++lane) sums[lane] += values[i + lane] * 0.0F;
  }
  for (; i < count; ++i) sums[0] += values[i] * 0.0F;
  return std::all_of(std::begin(sums), std::end(sums), [](float sum) { return sum == 0; });
}

/// Rounds tiles to the ranges of their groups.
void round_to_range(const TiledMerge& tiles, const quant::AffineOptions& options,
                    const Tensor& out) {
  const int64_t cols = out.size(1), group_size = quant::checked_group_size(cols, options);
  FirstBadRow bad(out.size(0));
  tiles.run([&](int64_t row, int64_t count, float* values, float*) {
    int64_t bad_here = count;
    quant::cpu::affine_fit_and_round({.weight = values,
                                      .rows = count,
                                      .cols = cols,
                                      .group_size = group_size,
                                      .groups = cols / group_size,
                                      .options = options,
                                      .values = values,
                                      .first_bad_row = &bad_here});
    if (bad_here < count) bad.lower_to(row + bad_here);
    convert_rows(values, out, row, count);
  });
  bad.check();
}

/// Rounds tiles to grids that are held.
void round_to_held(const TiledMerge& tiles, const HeldGrid& held,
                   const quant::AffineOptions& options, const Tensor& out) {
  const Tensor of_codes = held.of_codes(options.scale_type),
               of_values = held.effective(options.scale_type);
  const int64_t cols = out.size(1), groups = of_codes.size(1);
  FirstBadRow bad(out.size(0));
  tiles.run([&](int64_t row, int64_t count, float* values, float*) {
    if (!all_finite(values, count * cols)) bad.lower_to(row);
    quant::cpu::affine_round({.weight = values,
                              .rows = count,
                              .cols = cols,
                              .group_size = cols / groups,
                              .groups = groups,
                              .options = options,
                              .scales = of_codes.mutable_data_ptr<float>() + row * groups,
                              .zeros = held.zeros.mutable_data_ptr<uint8_t>() + row * groups,
                              .value_scales = of_values.const_data_ptr<float>() + row * groups,
                              .values = values});
    convert_rows(values, out, row, count);
  });
  bad.check();
}

}  // namespace

std::optional<quant::InputQuantizer> LinearGrid::input_quantizer() const {
  if (observer == nullptr) return inputs;
  if (!observer->is_ready()) return std::nullopt;
  auto measured = inputs;
  measured->scale = observer->scale();
  return measured;
}

Tensor HeldGrid::effective(quant::ScaleType type) const {
  const at::NoGradGuard no_graph;
  if (!factor.defined()) return scales;
  const Tensor moved = (scales * factor).to(quant::torch_type(type)).to(torch::kFloat32);
  // As rounded_scale: the least positive number of the type stands for 0.
  const float least = type == quant::ScaleType::kF16 ? 0x1p-24F : 0x1p-126F;
  return moved.clamp_min_(least).contiguous();
}

void check_can_be_rounded(const FrozenWeight& weight) {
  QLORA_CHECK(weight.holds<Tensor>() || weight.holds<quant::Nf4Tensor>(), ConfigError,
              "[qat] training on a grid needs a base of plain numbers or NF4, and this one is "
              "quantized in another form already; train on the checkpoint that it was made from");
}

void keep_in_range(const std::string& module, const HeldGrid& grid) {
  if (!grid.factor.defined()) return;
  const at::NoGradGuard no_graph;
  const auto least = grid.factor.min().item<float>(), most = grid.factor.max().item<float>();
  QLORA_CHECK(least > kLeapBelow && std::isfinite(most), ValueError,
              "[qat] the learned scales of {} have left their range: factors {} to {}, allowed "
              "positive and finite; lower the learning rate",
              module, least, most);
  if (least < kLeastFactor) grid.factor.clamp_min_(kLeastFactor);
}

Tensor merged_or_plain(const FrozenWeight& weight, const Adapter* adapter) {
  const at::NoGradGuard no_graph;
  check_can_be_rounded(weight);
  const Tensor base = weight.dense_copy(torch::kFloat32);
  return adapter == nullptr ? base : merged_weight(base, *adapter);
}

Tensor fake_quantized_composed(const FrozenWeight& weight, const Adapter* adapter,
                               const LinearGrid& grid, torch::ScalarType dtype) {
  const at::NoGradGuard no_graph;
  const Tensor merged = merged_or_plain(weight, adapter);
  if (const auto* fp8 = std::get_if<Fp8Grid>(&grid.weight)) {
    const auto scaling = fp8->whole_matrix ? quant::Fp8Scaling::kTensor : quant::Fp8Scaling::kRow;
    return quant::dequantize_fp8(quant::quantize_fp8(merged, scaling, fp8->scale_type)).to(dtype);
  }
  return quant::dequantize_affine(affine_on_grid(merged, grid)).to(dtype);
}

Tensor fake_quantized(const FrozenWeight& weight, const Adapter* adapter, const LinearGrid& grid,
                      torch::ScalarType dtype) {
  const at::NoGradGuard no_graph;
  check_can_be_rounded(weight);
  Tensor out = weight_scratch(weight.rows(), weight.cols(), dtype);
  const auto* affine = std::get_if<quant::AffineOptions>(&grid.weight);
  if (affine == nullptr) return out.copy_(fake_quantized_composed(weight, adapter, grid, dtype));
  const TiledMerge tiles(weight, adapter);
  if (grid.held == nullptr) {
    round_to_range(tiles, *affine, out);
  } else {
    round_to_held(tiles, *grid.held, *affine, out);
  }
  return out;
}

GridGradient fake_quantized_backward(const FrozenWeight& weight, const Adapter* adapter,
                                     const LinearGrid& grid, const Tensor& gradient) {
  const at::NoGradGuard no_graph;
  const auto& options = std::get<quant::AffineOptions>(grid.weight);
  const Tensor of_codes = grid.held->of_codes(options.scale_type),
               of_values = grid.held->effective(options.scale_type);
  const int64_t cols = weight.cols(), groups = of_codes.size(1), group_size = cols / groups;
  GridGradient result{.rounded = weight_scratch(weight.rows(), cols, gradient.scalar_type()),
                      .weight = gradient.contiguous(),
                      .factor = {}};
  float* by_scale = nullptr;
  if (grid.held->factor.defined()) {
    result.factor = at::empty({weight.rows(), groups}, torch::TensorOptions(torch::kFloat32));
    by_scale = result.factor.mutable_data_ptr<float>();
  }
  const TiledMerge tiles(weight, adapter);
  tiles.run([&](int64_t row, int64_t count, float* values, float* arriving) {
    convert_rows(result.weight, row, count, arriving);
    quant::cpu::affine_gradient(
        {.weight = values,
         .rows = count,
         .cols = cols,
         .group_size = group_size,
         .bits = options.bits,
         .scales = of_codes.const_data_ptr<float>() + row * groups,
         .zeros = grid.held->zeros.const_data_ptr<uint8_t>() + row * groups,
         .value_scales =
             grid.held->is_anchored ? of_values.const_data_ptr<float>() + row * groups : nullptr,
         .values = values,
         .gradient = arriving,
         .scale_gradient = by_scale != nullptr ? by_scale + row * groups : nullptr});
    convert_rows(values, result.rounded, row, count);
    convert_rows(arriving, result.weight, row, count);
  });
  if (by_scale != nullptr) {
    result.factor.mul_(grid.held->scales).mul_(quant::lsq_gradient_scale(group_size, options.bits));
  }
  return result;
}

}  // namespace qlora::lora
