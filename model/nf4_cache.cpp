#include "model/nf4_cache.h"

#include <unistd.h>

#include "core/error.h"
#include "io/safetensors.h"
#include "io/sha256.h"
#include "lora/tensor_view.h"

namespace qlora::model {

namespace {

namespace fs = std::filesystem;

/// Raised whenever the layout of the file or the quantizer's output changes.
constexpr int kCacheVersion = 1;

}  // namespace

Nf4Cache::Nf4Cache(const std::string& directory, const std::string& source_hash,
                   const quant::Nf4Options& options) {
  if (directory.empty()) return;
  const std::string key =
      fmt::format("{} v{} {} block {} double {}", source_hash, kCacheVersion,
                  options.quant_type == quant::FourBitType::kNf4 ? "nf4" : "fp4",
                  options.block_size, options.double_quant);
  file_ = fs::path(directory) / (io::sha256_hex(std::as_bytes(std::span(key))) + ".safetensors");
}

std::optional<std::vector<quant::Nf4Tensor>> Nf4Cache::read(const std::vector<std::string>& names,
                                                            RunLog& log) const {
  if (!enabled()) return std::nullopt;
  std::error_code error;
  if (!fs::exists(file_, error)) {
    if (error) {
      log.warn(
          fmt::format("the quantized cache {} cannot be looked at ({}); set "
                      "quantization.cache_dir to a folder that can be read, or leave it empty",
                      file_.string(), error.message()));
    }
    return std::nullopt;
  }
  try {
    const io::SafetensorsReader reader(file_);
    quant::TensorMap tensors;
    for (const auto& view : reader.tensors()) {
      tensors[view.name] = lora::tensor_copy(view);
      reader.release(view);
    }
    std::vector<quant::Nf4Tensor> weights;
    for (const auto& name : names) {
      weights.push_back(quant::Nf4Tensor::from_tensors(name, tensors));
    }
    return weights;
  } catch (const Error& problem) {
    log.warn(fmt::format("the quantized cache {} is damaged and is made again: {}", file_.string(),
                         problem.what()));
    return std::nullopt;
  }
}

void Nf4Cache::write(const std::vector<std::string>& names,
                     const std::vector<quant::Nf4Tensor>& weights, RunLog& log) const {
  if (!enabled()) return;
  try {
    fs::create_directories(file_.parent_path());
    std::vector<torch::Tensor> kept;
    std::vector<io::TensorView> views;
    for (size_t i = 0; i < names.size(); ++i) {
      for (const auto& [name, tensor] : weights[i].to_tensors(names[i])) {
        kept.push_back(tensor.contiguous());
        views.push_back(lora::tensor_view(name, kept.back()));
      }
    }
    io::write_safetensors(file_, views, {{"format", "pt"}});
  } catch (const std::exception& problem) {
    log.warn(fmt::format("the quantized weights were not kept in {}: {}", file_.string(),
                         problem.what()));
  }
}

}  // namespace qlora::model
