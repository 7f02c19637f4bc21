#pragma once

#include <torch/types.h>

#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "core/error.h"
#include "io/safetensors.h"
#include "quant/nf4.h"

namespace qlora::testing {

inline std::filesystem::path export_fixture(const std::string& name) {
  return std::filesystem::path(QLORA_SOURCE_DIR) / "tests/fixtures/export" /
         (name + ".safetensors");
}

inline torch::ScalarType torch_dtype(io::DType dtype) {
  switch (dtype) {
    case io::DType::kU8:
      return torch::kUInt8;
    case io::DType::kI8:
      return torch::kInt8;
    case io::DType::kF8E4M3:
      return torch::kFloat8_e4m3fn;
    case io::DType::kF16:
      return torch::kFloat16;
    case io::DType::kI32:
      return torch::kInt32;
    case io::DType::kI64:
      return torch::kInt64;
    case io::DType::kF32:
      return torch::kFloat32;
    default:
      throw ValueError("a fixture holds a type that no test expects");
  }
}

/// A file of tests/fixtures/export: the producer's tensors, `dequant` apart.
struct ExportFixture {
  explicit ExportFixture(const std::string& name) {
    const io::SafetensorsReader reader(export_fixture(name));
    for (const auto& view : reader.tensors()) {
      torch::Tensor tensor = torch::empty(view.shape, torch_dtype(view.dtype));
      std::memcpy(tensor.mutable_data_ptr(), view.bytes.data(), view.bytes.size());
      if (view.name == "dequant") {
        dequant = tensor;
      } else {
        tensors[view.name] = tensor;
      }
    }
    const auto found = reader.metadata().find("quantization_config");
    if (found != reader.metadata().end()) config = nlohmann::json::parse(found->second);
  }

  quant::TensorMap tensors;
  torch::Tensor dequant;  // [64, K] f32
  nlohmann::json config;
};

inline bool same_bytes(const torch::Tensor& a, const torch::Tensor& b) {
  return a.scalar_type() == b.scalar_type() && a.sizes() == b.sizes() && a.is_contiguous() &&
         b.is_contiguous() && std::memcmp(a.const_data_ptr(), b.const_data_ptr(), a.nbytes()) == 0;
}

/// All tensors of `expected` but those in `except`, and no others, byte by byte.
inline std::string difference(const quant::TensorMap& actual, const quant::TensorMap& expected,
                              const std::vector<std::string>& except = {}) {
  std::string text;
  size_t left_out = 0;
  for (const auto& [name, tensor] : expected) {
    if (std::find(except.begin(), except.end(), name) != except.end()) {
      ++left_out;
    } else if (!actual.contains(name)) {
      text += name + " is missing; ";
    } else if (!same_bytes(actual.at(name), tensor)) {
      text += name + " differs; ";
    }
  }
  if (actual.size() + left_out != expected.size()) text += "other tensors than expected";
  return text;
}

}  // namespace qlora::testing
