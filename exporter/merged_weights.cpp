#include "exporter/merged_weights.h"

#include <ATen/ops/zeros.h>

#include <algorithm>

#include "core/error.h"
#include "core/nearest_name.h"
#include "io/base_record.h"
#include "io/sha256.h"
#include "lora/merge.h"
#include "quant/nf4.h"

namespace qlora::exporter {

std::optional<lora::Adapter> adapter_of(const lora::PeftAdapter& file, const std::string& module) {
  const auto found = file.modules.find(module);
  if (found == file.modules.end()) return std::nullopt;
  return lora::Adapter{.a = found->second.a,
                       .b = found->second.b,
                       .alpha = found->second.alpha,
                       .scale = found->second.scale,
                       .dtype = torch::kFloat32};
}

std::string adapter_hash(const lora::PeftAdapter& adapter) {
  io::Sha256 hash;
  for (const auto& [module, matrices] : adapter.modules) {
    hash.update(module);
    for (const torch::Tensor& matrix : {matrices.a, matrices.b}) {
      const torch::Tensor flat = matrix.contiguous();
      hash.update({static_cast<const std::byte*>(flat.const_data_ptr()), flat.nbytes()});
    }
    hash.update(fmt::format("{}", matrices.scale));
  }
  return hash.hex();
}

void check_adapter(const lora::PeftAdapter& adapter, const model::BlockLoader& loader) {
  std::vector<std::string> known;
  for (int64_t i = 0; i < loader.block_count(); ++i) {
    for (auto& name : loader.linear_names(i)) known.push_back(std::move(name));
  }
  for (const auto& [module, matrices] : adapter.modules) {
    if (std::find(known.begin(), known.end(), module) == known.end()) {
      const auto nearest = nearest_name(module, known);
      throw FormatError(fmt::format(
          "[export] the adapter changes {}, which is no linear of {}{}; it was trained on {}",
          module, loader.checkpoint().path().string(),
          nearest ? fmt::format(" (nearest: {})", *nearest) : "",
          adapter.base_model.empty() ? "a base that it does not name" : adapter.base_model));
    }
    const auto& shape = loader.checkpoint().shape(module + ".weight");
    QLORA_CHECK(matrices.a.size(1) == shape[1] && matrices.b.size(0) == shape[0], ShapeError,
                "[export] the adapter of {} is made for [{}, {}], the model has [{}, {}]; it was "
                "trained on {}",
                module, matrices.b.size(0), matrices.a.size(1), shape[0], shape[1],
                adapter.base_model.empty() ? "a base that it does not name" : adapter.base_model);
  }
}

void check_base(const std::filesystem::path& adapter, const io::Checkpoint& base) {
  const auto difference = io::base_difference(adapter, base);
  QLORA_CHECK(!difference, FormatError,
              "[export] {}; name that base with --model-path, or take this one with --set "
              "export.allow_other_base=true",
              *difference);
}

MergedWeights::MergedWeights(const model::BlockLoader& loader, const lora::PeftAdapter* adapter,
                             MergeBase base, const quant::Nf4Options& four_bit)
    : loader_(loader), adapter_(adapter), base_(base), four_bit_(four_bit) {
  if (adapter_ != nullptr) check_adapter(*adapter_, loader_);
}

torch::Tensor MergedWeights::base_weight(const std::string& module) const {
  torch::Tensor weight = loader_.source().tensor_f32(module + ".weight");
  if (base_ == MergeBase::kOriginal) return weight;
  return quant::dequantize_nf4(quant::quantize_nf4(weight, four_bit_), torch::kFloat32);
}

torch::Tensor MergedWeights::weight(const std::string& module) const {
  torch::Tensor base = base_weight(module);
  if (adapter_ == nullptr) return base;
  const auto adapter = adapter_of(*adapter_, module);
  return adapter ? lora::merged_weight(base, *adapter) : base;
}

torch::Tensor MergedWeights::change(const std::string& module) const {
  if (adapter_ == nullptr) return {};
  const auto adapter = adapter_of(*adapter_, module);
  if (!adapter) return {};
  const auto& shape = loader_.checkpoint().shape(module + ".weight");
  return lora::merged_weight(at::zeros({shape[0], shape[1]}), *adapter);
}

model::DecoderBlock MergedWeights::block(int64_t index) const {
  model::DecoderBlock block = loader_.block_without_weights(index);
  for (auto* linear : block.linears()) {
    linear->set_weight(lora::FrozenWeight(weight(linear->name()).to(loader_.compute_dtype())));
  }
  return block;
}

}  // namespace qlora::exporter
