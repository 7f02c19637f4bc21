#include "model/plan_shape.h"

#include <algorithm>
#include <numeric>
#include <set>
#include <string_view>

#include "io/tensor_layout.h"
#include "lora/targets.h"

namespace qlora::model {
namespace {

constexpr std::string_view kWeight = ".weight";

int64_t divided_up(int64_t count, int64_t by) {
  return (count + by - 1) / by;
}

int64_t elements(const std::vector<int64_t>& shape) {
  int64_t count = 1;
  for (const int64_t size : shape) count *= size;
  return count;
}

bool is_linear(const io::ExpectedTensor& tensor) {
  return tensor.role == io::TensorRole::kLinear;
}

int64_t state_bytes(int64_t numbers, OptimizerStates states) {
  constexpr int64_t kSmallest8bit = 4096, kBlock = 256;  // trainer/adamw_math.h
  if (states == OptimizerStates::k32bit || numbers < kSmallest8bit) return 8 * numbers;
  return 2 * numbers + 8 * divided_up(numbers, kBlock);
}

int64_t quantized_bytes(const PlannedLinear& linear, const io::QuantizedForm& form) {
  switch (form.form) {
    case io::PackedForm::kBnbFourBit:
      return four_bit_bytes(linear.rows * linear.cols, {});
    case io::PackedForm::kFloatQuantized:
      return linear.rows * linear.cols + 4 * linear.rows;
    case io::PackedForm::kBnbInt8:
    case io::PackedForm::kIntQuantized:
      return packed_affine_bytes(linear.rows, linear.cols, 8, -1);
    default:
      return packed_affine_bytes(linear.rows, linear.cols, form.bits, form.group_size);
  }
}

}  // namespace

std::vector<PlannedLinear> planned_linears(const PlanShape& shape) {
  std::vector<PlannedLinear> linears;
  std::vector<std::string> modules;
  for (const io::ExpectedTensor& tensor : io::model_tensors(shape.config)) {
    if (!is_linear(tensor)) continue;
    modules.push_back(tensor.name.substr(0, tensor.name.size() - kWeight.size()));
    linears.push_back({modules.back(), tensor.shape[0], tensor.shape[1], 0});
  }
  if (!shape.lora.enabled) return linears;
  const auto selected = lora::select_targets(modules, shape.lora);
  const std::set<std::string> adapted(selected.begin(), selected.end());
  for (PlannedLinear& linear : linears) {
    if (!adapted.contains(linear.module)) continue;
    linear.rank = lora::adapter_shape(linear.module, shape.lora).r;
  }
  return linears;
}

int64_t base_parameters(const io::HfConfig& config) {
  int64_t count = 0;
  for (const io::ExpectedTensor& tensor : io::model_tensors(config)) {
    count += elements(tensor.shape);
  }
  return count;
}

int64_t adapter_parameters(const std::vector<PlannedLinear>& linears) {
  int64_t count = 0;
  for (const PlannedLinear& l : linears) count += l.rank * (l.rows + l.cols);
  return count;
}

int64_t four_bit_bytes(int64_t weights, const quant::Nf4Options& options) {
  constexpr int64_t kScalesPerBlock = 256;
  const int64_t codes = divided_up(weights, 2), scales = divided_up(weights, options.block_size);
  if (!options.double_quant) return codes + 4 * scales;
  return codes + scales + 4 * divided_up(scales, kScalesPerBlock);
}

int64_t packed_affine_bytes(int64_t rows, int64_t cols, int64_t bits, int64_t group) {
  const int64_t row = bits <= 4 ? divided_up(cols, 2) : cols;
  const int64_t groups = group <= 0 ? 1 : divided_up(cols, group);
  return rows * (row + 3 * groups);
}

int64_t frozen_matrix_bytes(const PlanShape& shape, const std::vector<PlannedLinear>& linears) {
  int64_t bytes = 0;
  for (const PlannedLinear& linear : linears) {
    const int64_t weights = linear.rows * linear.cols;
    bytes += shape.quantized      ? quantized_bytes(linear, *shape.quantized)
             : shape.load_in_4bit ? four_bit_bytes(weights, shape.four_bit)
                                  : weights * shape.compute_bytes;
  }
  return bytes;
}

int64_t embedding_bytes(const PlanShape& shape) {
  int64_t bytes = 0;
  for (const io::ExpectedTensor& tensor : io::model_tensors(shape.config)) {
    if (is_linear(tensor)) continue;
    bytes += elements(tensor.shape) * (tensor.shape.size() == 2 ? shape.compute_bytes : 4);
  }
  return bytes;
}

int64_t trained_parameters(const PlanShape& shape, const std::vector<PlannedLinear>& linears) {
  const int64_t adapters = adapter_parameters(linears);
  if (!shape.learns_scales) return adapters;
  return std::accumulate(shape.held_groups.begin(), shape.held_groups.end(), adapters);
}

int64_t optimizer_bytes(const PlanShape& shape, const std::vector<PlannedLinear>& linears) {
  int64_t bytes = 0;
  for (const PlannedLinear& l : linears) {
    bytes +=
        state_bytes(l.rank * l.cols, shape.states) + state_bytes(l.rank * l.rows, shape.states);
  }
  if (!shape.learns_scales) return bytes;
  for (const int64_t groups : shape.held_groups) bytes += state_bytes(groups, shape.states);
  return bytes;
}

}  // namespace qlora::model
