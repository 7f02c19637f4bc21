#include "exporter/start_codes.h"

#include "core/error.h"
#include "exporter/merged_weights.h"
#include "exporter/weight_grids.h"
#include "lora/merge.h"

namespace qlora::exporter {
namespace {

using torch::Tensor;

constexpr double kOfHalfStep = 0.9;  // how far from a code's value a weight may lie
constexpr double kMostSteps = 2;     // in the mean, between a weight and its code's value

/// scale(n, g) for every element.  [N, K]
Tensor steps_of(const quant::AffineTensor& codes) {
  return codes.scales.repeat_interleave(codes.cols() / codes.groups(), 1);
}

}  // namespace

StartCodes::StartCodes(const std::string& folder, const Preflight& grid,
                       const lora::PeftAdapter* adapter)
    : grid_(grid), adapter_(adapter), source_(folder) {}

std::string StartCodes::identity() const {
  const std::string codes = source_.checkpoint().source_hash();
  return adapter_ == nullptr ? codes : codes + adapter_hash(*adapter_);
}

Tensor StartCodes::moved(const std::string& module, const Tensor& weight) const {
  const ModuleGrid& of_module = grid_.at(module);
  if (!of_module.is_quantized()) return weight;
  const auto options = affine_options(grid_.grid, of_module.bits, of_module.group_size);
  const quant::AffineTensor codes = codes_of_export(source_, of_module, options, "start_from");
  const auto adapter = adapter_ != nullptr ? adapter_of(*adapter_, module) : std::nullopt;
  const Tensor merged = adapter ? lora::merged_weight(weight, *adapter) : weight;
  const Tensor values = quant::dequantize_affine(codes), steps = steps_of(codes);
  const Tensor off = (merged - values) / steps;
  const double mean = off.abs().mean().item<double>();
  QLORA_CHECK(mean <= kMostSteps, ConfigError,
              "[qat] start_from: the codes of {} in {} lie {:.1f} steps from this run's weights in "
              "the mean, allowed {}; name an export of this model, with the adapter that "
              "lora.init_adapter names",
              module, source_.checkpoint().path().string(), mean, kMostSteps);
  const double most = kOfHalfStep / 2;
  return weight + (off.clamp(-most, most) * steps + values - merged);
}

}  // namespace qlora::exporter
