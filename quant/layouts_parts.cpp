#include "quant/layouts_parts.h"

#include <algorithm>
#include <optional>

#include "quant/affine_math.h"
#include "quant/checks.h"

namespace qlora::quant::layouts {
namespace {

using torch::Tensor;

const Tensor& present(const TensorMap& tensors, const std::string& name) {
  const Tensor* t = find_tensor(tensors, name);
  if (t == nullptr) refuse("tensor {} is missing", name);
  return *t;
}

/// Runs of columns that share a group: cols divides into them, and group k / size is column k's.
bool are_runs(const Tensor& group_of, int64_t size) {
  const int32_t* g = group_of.const_data_ptr<int32_t>();
  if (group_of.numel() % size != 0) return false;
  for (int64_t k = 0; k < group_of.numel(); ++k) {
    if (g[k] != k / size) return false;
  }
  return true;
}

}  // namespace

const Tensor* find_tensor(const TensorMap& tensors, const std::string& name) {
  const auto found = tensors.find(name);
  return found != tensors.end() && found->second.defined() ? &found->second : nullptr;
}

const Tensor& tensor_at(const TensorMap& tensors, const std::string& name, torch::ScalarType type,
                        int64_t dims) {
  const Tensor& t = present(tensors, name);
  if (t.scalar_type() != type || t.dim() != dims || !t.is_contiguous() || !t.is_cpu() ||
      t.numel() == 0) {
    refuse("{} is {} {}, allowed {} with {} dimensions, contiguous and not empty", name,
           c10::toString(t.scalar_type()), c10::str(t.sizes()), c10::toString(type), dims);
  }
  return t;
}

void check_sizes(const std::string& name, const Tensor& t, c10::IntArrayRef allowed) {
  QLORA_CHECK(t.sizes() == allowed, ShapeError, "[quant] {} has shape {}, allowed {}", name,
              c10::str(t.sizes()), c10::str(allowed));
}

Scales scales_at(const TensorMap& tensors, const std::string& name) {
  const Tensor& t = present(tensors, name);
  const std::optional<ScaleType> type = scale_type_of(t.scalar_type());
  if (!type) refuse("{} is {}, allowed F16, BF16 and F32", name, c10::toString(t.scalar_type()));
  if (t.numel() == 0 || t.dim() > 2) refuse("{} has shape {}", name, c10::str(t.sizes()));
  Tensor scales = t.to(torch::kFloat32, /*non_blocking=*/false, /*copy=*/true).contiguous();
  if (!scales.isfinite().all().item<bool>()) refuse("{} holds NaN or infinity", name);
  return {scales, *type};
}

int64_t group_columns(int64_t cols, int64_t group_size) {
  if (group_size < -1 || group_size == 0) {
    refuse("group_size is {}, allowed at least 1, or -1 for the whole row", group_size);
  }
  return group_size == -1 ? cols : group_size;
}

Tensor runs_of(int64_t cols, int64_t size) {
  return torch::arange(cols, torch::kInt32).floor_divide(size).to(torch::kInt32);
}

Tensor groups_at(const TensorMap& tensors, const std::string& name, int64_t cols, int64_t groups,
                 int64_t size) {
  Tensor group_of = runs_of(cols, size);
  if (find_tensor(tensors, name) != nullptr) {
    group_of = tensor_at(tensors, name, torch::kInt32, 1).clone();
    check_sizes(name, group_of, {cols});
  }
  const auto least = group_of.min().item<int32_t>(), most = group_of.max().item<int32_t>();
  if (least < 0 || most >= groups) {
    refuse("{} holds groups {} to {}, allowed 0 to {}", name, least, most, groups - 1);
  }
  return are_runs(group_of, size) && cols / size == groups ? Tensor() : group_of;
}

void check_written(const AffineTensor& t) {
  check_affine(t);
  check_on_cpu(t.codes, "weight");
  const int64_t bits = t.options.bits;
  check_bits<ValueError>(bits);
  const auto most = std::max(t.codes.max().item<uint8_t>(), t.zeros.max().item<uint8_t>());
  QLORA_CHECK(most <= affine_max_code(bits), ValueError,
              "[quant] a code or zero point is {}, allowed at most {} at {} bits", most,
              affine_max_code(bits), bits);
}

bool is_symmetric(const AffineTensor& t) {
  return (t.zeros == affine_max_code(t.options.bits) / 2 + 1).all().item<bool>();
}

void set_rule(AffineTensor& t) {
  t.options.rule = is_symmetric(t) ? GridRule::kSymmetric : GridRule::kAsymmetric;
}

Tensor written_scales(const Tensor& scales, ScaleType type) {
  return scales.contiguous().to(torch_type(type));
}

}  // namespace qlora::quant::layouts
