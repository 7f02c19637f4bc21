#include "quant/gptq.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/linalg_cholesky_ex.h>
#include <ATen/ops/linalg_solve_triangular.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "quant/checks.h"
#include "quant/gptq_backend.h"
#include "quant/gptq_composed.h"

namespace qlora::quant {
namespace {

using torch::Tensor;

/// Columns whose errors reach the columns behind them in one product.
constexpr int64_t kBlockColumns = 128;

void check_statistics(const LinearStatistics& s) {
  check_gram(s);
  check_tokens(s);
  QLORA_CHECK(
      s.gram.isfinite().all().item<bool>(), ValueError,
      "[quant] the Gram matrix of the inputs holds numbers that are not finite; the model's "
      "activations overflow on the calibration samples: compute in another type");
}

/// Order of rounding, or undefined where columns stay as they are.
Tensor column_order(const Tensor& diagonal, int64_t group_size, const GptqOptions& options) {
  if (options.desc_act) return diagonal.argsort(/*stable=*/true, 0, /*descending=*/true);
  if (!options.act_group_aware) return {};
  const auto groups = diagonal.view({-1, group_size});
  const auto within = groups.argsort(true, 1, true);          // [groups, group_size]
  const auto between = groups.sum(1).argsort(true, 0, true);  // [groups]
  const auto first = torch::arange(groups.size(0), between.options()).mul(group_size);
  return (within + first.unsqueeze(1)).index_select(0, between).reshape({-1});
}

/// U upper triangular with UᵀU = H⁻¹, or undefined where H is not positive definite.
///   H = R Rᵀ for R upper triangular, which is the Cholesky factor of H with rows and columns
///   reversed, reversed back; then U = R⁻¹: no inverse of H is ever formed.
Tensor inverse_factor(const Tensor& hessian) {
  const auto [lower, info] = at::linalg_cholesky_ex(hessian.flip({0, 1}));
  if (info.item<int32_t>() != 0) return {};
  const auto identity = torch::eye(hessian.size(0), hessian.options());
  const auto inverse =
      at::linalg_solve_triangular(lower.flip({0, 1}), identity, /*upper=*/true).triu();
  if (!inverse.isfinite().all().item<bool>()) return {};
  return inverse.to(torch::kFloat32).contiguous();
}

/// The group of each column in the order of rounding.
std::vector<int32_t> column_groups(const GptqFactor& factor, int64_t cols, int64_t group_size,
                                   const GptqOptions& options) {
  std::vector<int32_t> groups(cols);
  const bool follows_order = options.desc_act && !options.static_groups;
  Tensor order;
  if (factor.order.defined() && !follows_order) order = factor.order.cpu();
  for (int64_t i = 0; i < cols; ++i) {
    const int64_t column = order.defined() ? order.const_data_ptr<int64_t>()[i] : i;
    groups[i] = static_cast<int32_t>(column / group_size);
  }
  return groups;
}

/// One weight on its way through the blocks; columns stand in the order of rounding.
struct Work {
  const GptqFactor& factor;
  const AffineOptions& affine;
  const GptqOptions& options;
  int64_t group_size;
  Tensor weight;  // [N, K], changed
  AffineTensor t;
  std::vector<int32_t> column_group;
  Tensor column_weight;  // [K], of the squared error of a column
  bool fits;

  int64_t rows() const { return weight.size(0); }
  int64_t cols() const { return weight.size(1); }
  /// Groups end where blocks end, or blocks where groups end.
  int64_t block_end(int64_t begin) const {
    if (group_size <= kBlockColumns) {
      return std::min(cols(), begin + kBlockColumns / group_size * group_size);
    }
    const int64_t group_end = fits ? (begin / group_size + 1) * group_size : cols();
    return std::min(group_end, begin + kBlockColumns);
  }
  GridSearch search() const {
    return {.affine = affine,
            .kind = options.scale_search,
            .steps = options.scale_steps,
            .least = options.scale_least,
            .column_weight = column_weight.const_data_ptr<float>()};
  }
  composed::GptqBlock composed_block() const {
    return {.weight = weight,
            .factor = factor.factor,
            .column_weight = column_weight,
            .affine = affine,
            .search = options.scale_search,
            .search_steps = options.scale_steps,
            .search_least = options.scale_least,
            .group_size = group_size,
            .fits = fits,
            .scales = t.scales,
            .zeros = t.zeros,
            .codes = t.codes};
  }
};

/// Grids from the weight as it is, [N, K] in its own order. False where one is not finite.
bool find_static_grids(const Tensor& weight, const Tensor& diagonal, Work& work) {
  GridSearch search = work.search();
  if (search.kind == ScaleSearch::kGptq) search.kind = ScaleSearch::kMse;
  if (!weight.is_cpu()) {
    composed::GptqBlock block = work.composed_block();
    block.weight = weight;
    block.column_weight = diagonal;
    block.search = search.kind;
    composed::search_grids(block);
    return true;
  }
  search.column_weight = diagonal.const_data_ptr<float>();
  int64_t bad = work.rows();
  cpu::search_grids({.weight = weight.const_data_ptr<float>(),
                     .rows = work.rows(),
                     .cols = work.cols(),
                     .group_size = work.group_size,
                     .search = search,
                     .scales = work.t.scales.mutable_data_ptr<float>(),
                     .zeros = work.t.zeros.mutable_data_ptr<uint8_t>(),
                     .first_bad_row = &bad});
  return bad == work.rows();
}

/// Rounds columns [begin, end); errors [N, end - begin]. False where a grid is not finite.
bool round_block(Work& work, int64_t begin, int64_t end, Tensor& errors) {
  if (!work.weight.is_cpu()) {
    composed::GptqBlock block = work.composed_block();
    errors = composed::gptq_block(block, work.column_group, begin, end);
    return true;
  }
  errors = torch::empty({work.rows(), end - begin}, work.weight.options());
  int64_t bad = work.rows();
  cpu::gptq_block({.weight = work.weight.const_data_ptr<float>(),
                   .rows = work.rows(),
                   .cols = work.cols(),
                   .begin = begin,
                   .end = end,
                   .factor = work.factor.factor.const_data_ptr<float>(),
                   .column_group = work.column_group.data(),
                   .groups = work.t.groups(),
                   .group_size = work.group_size,
                   .fits = work.fits,
                   .search = work.search(),
                   .scales = work.t.scales.mutable_data_ptr<float>(),
                   .zeros = work.t.zeros.mutable_data_ptr<uint8_t>(),
                   .codes = work.t.codes.mutable_data_ptr<uint8_t>(),
                   .errors = errors.mutable_data_ptr<float>(),
                   .first_bad_row = &bad});
  return bad == work.rows();
}

/// Algorithm 1 of the paper. False where a grid is not finite.
bool round_columns(Work& work) {
  for (int64_t begin = 0; begin < work.cols();) {
    const int64_t end = work.block_end(begin);
    Tensor errors;
    if (!round_block(work, begin, end, errors)) return false;
    if (end < work.cols()) {
      auto rest = work.weight.narrow(1, end, work.cols() - end);
      const auto factor =
          work.factor.factor.narrow(0, begin, end - begin).narrow(1, end, work.cols() - end);
      rest.addmm_(errors, factor, 1, -1);
    }
    begin = end;
  }
  return work.t.scales.isfinite().all().item<bool>();
}

/// Puts the codes back in the weight's own order and says which column is in which group.
void restore_order(Work& work) {
  if (!work.factor.order.defined()) return;
  const auto codes = work.t.codes;
  work.t.codes = torch::empty_like(codes).index_copy_(1, work.factor.order, codes);
  if (!work.options.desc_act || work.options.static_groups || work.t.groups() == 1) return;
  const auto group_of = torch::tensor(work.column_group, torch::kInt32).to(codes.device());
  work.t.group_of = torch::empty_like(group_of).index_copy_(0, work.factor.order, group_of);
}

/// Result of GPTQ proper; codes undefined where a grid is not finite.
AffineTensor solve(const Tensor& weight, const GptqFactor& factor, const AffineOptions& affine,
                   const GptqOptions& options, int64_t group_size) {
  const int64_t rows = weight.size(0), cols = weight.size(1);
  const auto bytes = weight.options().dtype(torch::kUInt8);
  Work work{.factor = factor,
            .affine = affine,
            .options = options,
            .group_size = group_size,
            .weight = factor.order.defined() ? weight.index_select(1, factor.order)
                                             : weight.clone(at::MemoryFormat::Contiguous),
            .t = {.codes = torch::empty({rows, cols}, bytes),
                  .scales = torch::empty({rows, cols / group_size}, weight.options()),
                  .zeros = torch::empty({rows, cols / group_size}, bytes),
                  .options = affine},
            .column_group = column_groups(factor, cols, group_size, options),
            .column_weight = factor.factor.diagonal().square().reciprocal().contiguous(),
            .fits = !options.static_groups};
  if (options.static_groups &&
      !find_static_grids(weight.contiguous(), factor.diagonal.contiguous(), work)) {
    return {};
  }
  if (!round_columns(work)) return {};
  restore_order(work);
  return work.t;
}

}  // namespace

GptqFactor factor_gptq(const LinearStatistics& statistics, const AffineOptions& affine,
                       const GptqOptions& options) {
  const at::NoGradGuard no_grad;
  check_statistics(statistics);
  const int64_t group_size = checked_group_size(statistics.gram.size(0), affine);
  const auto dtype = options.hessian_fp64 ? torch::kFloat64 : torch::kFloat32;
  auto hessian = statistics.gram.to(dtype) * (2.0 / static_cast<double>(statistics.tokens));
  GptqFactor f;
  f.diagonal = hessian.diagonal().to(torch::kFloat32).clone();
  f.order = column_order(f.diagonal, group_size, options);
  const auto is_dead = hessian.diagonal().eq(0);
  f.dead_columns = is_dead.sum().item<int64_t>();
  const double mean = hessian.diagonal().mean().item<double>();
  hessian.diagonal().add_(is_dead.to(dtype).mul(mean > 0 ? mean : 1.0));
  if (f.order.defined()) {
    hessian = hessian.index_select(0, f.order).index_select(1, f.order);
  }
  for (f.damp_percent = options.damp_percent;;) {
    auto damped = hessian.clone();
    damped.diagonal().add_(f.damp_percent * mean);
    f.factor = inverse_factor(damped);
    if (f.factor.defined() || f.damp_percent >= 1) return f;
    f.damp_percent = std::min(1.0, std::max(0.01, 2 * f.damp_percent));
    ++f.damp_increases;
  }
}

GptqTensor quantize_gptq(const Tensor& weight, const LinearStatistics& statistics,
                         const GptqFactor& factor, const AffineOptions& affine,
                         const GptqOptions& options) {
  const at::NoGradGuard no_grad;
  GptqTensor result;
  AffineTensor nearest = quantize_affine(weight, affine);
  GptqReport& report = result.report;
  report.error_rtn = output_error(dequantize_affine(nearest) - weight, statistics);
  report.error = report.error_rtn;
  report.damp_percent = factor.damp_percent;
  report.damp_increases = factor.damp_increases;
  report.dead_columns = factor.dead_columns;
  if (!factor.factor.defined()) {
    report.fallback =
        fmt::format("the Hessian is not positive definite at damping {}", factor.damp_percent);
    result.tensor = std::move(nearest);
    return result;
  }
  QLORA_CHECK(factor.factor.size(0) == weight.size(1) && factor.factor.device() == weight.device(),
              ShapeError,
              "[quant] the factor has {} columns on {} and the weight {} on {}, allowed "
              "the same",
              factor.factor.size(0), factor.factor.device().str(), weight.size(1),
              weight.device().str());
  result.tensor =
      solve(weight, factor, affine, options, checked_group_size(weight.size(1), affine));
  if (!result.tensor.codes.defined()) {
    report.fallback = "a scale left its type while errors were made good";
    result.tensor = std::move(nearest);
    return result;
  }
  const double error = output_error(dequantize_affine(result.tensor) - weight, statistics);
  if (!(error <= report.error_rtn)) {
    report.fallback =
        fmt::format("rounding to nearest has the smaller error ({:.4g} against {:.4g})",
                    report.error_rtn, error);
    result.tensor = std::move(nearest);
    return result;
  }
  report.error = error;
  return result;
}

GptqTensor quantize_gptq(const Tensor& weight, const LinearStatistics& statistics,
                         const AffineOptions& affine, const GptqOptions& options) {
  return quantize_gptq(weight, statistics, factor_gptq(statistics, affine, options), affine,
                       options);
}

}  // namespace qlora::quant
