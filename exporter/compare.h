#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

namespace qlora::exporter {

/// What a tensor is for, by its name in Hugging Face's or llama.cpp's spelling.
enum class TensorKind { kEmbedding, kOutput, kAttention, kMlp, kNorm, kScales, kOther };
inline constexpr size_t kTensorKinds = 7;

/// Scales, zero points and orders of columns count as kScales, whatever they belong to.
TensorKind tensor_kind(const std::string& name);
const char* kind_text(TensorKind kind);

struct KindSum {
  uint64_t tensors = 0;
  uint64_t bytes = 0;
};

/// Sizes of a model on disk.
struct ModelSizes {
  std::filesystem::path path;
  uint64_t total_bytes = 0;  // of all files in all folders below, links followed
  uint64_t files = 0;
  uint64_t tensor_bytes = 0;  // of the tensors in safetensors and GGUF files
  std::array<KindSum, kTensorKinds> kinds{};
};

/// Reads sizes alone: of the weights, only the headers.
///   path      a folder, or one GGUF or safetensors file
///   throws    IoError where there is nothing or no weights; FormatError for a damaged header
ModelSizes model_sizes(const std::filesystem::path& path);

/// Two models beside each other. GB is 1e9 bytes, GiB 2^30.
struct SizeComparison {
  ModelSizes original, quantized;

  double ratio() const;          // original / quantized, of all files
  double saved_percent() const;  // 100 (1 - quantized / original)
};

/// throws as model_sizes
SizeComparison compare_model_sizes(const std::filesystem::path& original,
                                   const std::filesystem::path& quantized);

std::string comparison_text(const SizeComparison& comparison);
nlohmann::ordered_json to_json(const SizeComparison& comparison);

}  // namespace qlora::exporter
