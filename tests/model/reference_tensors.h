#pragma once

#include <torch/types.h>

#include <cstring>
#include <filesystem>
#include <string>

#include "core/error.h"
#include "core/token_batch.h"
#include "io/safetensors.h"

namespace qlora::testing {

inline std::filesystem::path parity_folder() {
  return std::filesystem::path(QLORA_SOURCE_DIR) / "tests/fixtures/parity";
}

/// A tensor of a fixture file: f32, f64, i32 or u8.
inline torch::Tensor load_tensor(const io::SafetensorsReader& reader, const std::string& name) {
  const auto& view = reader.at(name);
  const auto dtype = view.dtype == io::DType::kF32   ? torch::kFloat32
                     : view.dtype == io::DType::kF64 ? torch::kFloat64
                     : view.dtype == io::DType::kI32 ? torch::kInt32
                                                     : torch::kUInt8;
  torch::Tensor tensor = torch::empty(view.shape, dtype);
  std::memcpy(tensor.mutable_data_ptr(), view.bytes.data(), view.bytes.size());
  return tensor;
}

inline std::vector<int32_t> load_tokens(const io::SafetensorsReader& reader,
                                        const std::string& name) {
  const torch::Tensor t = load_tensor(reader, name);
  return {t.const_data_ptr<int32_t>(), t.const_data_ptr<int32_t>() + t.numel()};
}

/// Sequences one after another; every token but the last of each predicts its successor.
inline TokenBatch joined(const std::vector<std::vector<int32_t>>& sequences) {
  TokenBatch batch;
  batch.segment_starts = {0};
  for (const auto& tokens : sequences) {
    batch.tokens.insert(batch.tokens.end(), tokens.begin(), tokens.end());
    batch.targets.insert(batch.targets.end(), tokens.begin() + 1, tokens.end());
    batch.targets.push_back(kIgnoreTarget);
    batch.segment_starts.push_back(static_cast<int32_t>(batch.tokens.size()));
  }
  return batch;
}

/// max over positions of max|Δ| / max|reference|; NaN counts as infinite.
inline double relative_error(const torch::Tensor& actual, const torch::Tensor& reference) {
  const auto per_row = ((actual - reference).abs().amax(-1) / reference.abs().amax(-1));
  const double worst = per_row.max().item<double>();
  return std::isfinite(worst) ? worst : std::numeric_limits<double>::infinity();
}

}  // namespace qlora::testing
