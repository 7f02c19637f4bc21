#include "lora/tensor_view.h"

#include <ATen/ops/empty.h>

#include <array>
#include <cstring>
#include <utility>

#include "core/error.h"

namespace qlora::lora {
namespace {

constexpr std::array<std::pair<io::DType, torch::ScalarType>, 9> kTypes = {{
    {io::DType::kF32, torch::kFloat32},
    {io::DType::kF16, torch::kFloat16},
    {io::DType::kBF16, torch::kBFloat16},
    {io::DType::kF8E4M3, torch::kFloat8_e4m3fn},
    {io::DType::kI8, torch::kInt8},
    {io::DType::kU8, torch::kUInt8},
    {io::DType::kI32, torch::kInt32},
    {io::DType::kI64, torch::kInt64},
    {io::DType::kF64, torch::kFloat64},
}};

}  // namespace

io::DType file_dtype(torch::ScalarType dtype) {
  for (const auto& [in_file, in_memory] : kTypes) {
    if (in_memory == dtype) return in_file;
  }
  throw ValueError(
      fmt::format("[lora] the number type {} is none that model files hold", c10::toString(dtype)));
}

torch::ScalarType torch_dtype(io::DType dtype) {
  for (const auto& [in_file, in_memory] : kTypes) {
    if (in_file == dtype) return in_memory;
  }
  throw FormatError(fmt::format("[lora] the number type {} of a file is none that is computed with",
                                io::dtype_name(dtype)));
}

io::TensorView tensor_view(const std::string& name, const torch::Tensor& tensor) {
  try {
    return {.name = name,
            .dtype = file_dtype(tensor.scalar_type()),
            .shape = tensor.sizes().vec(),
            .bytes = {static_cast<const std::byte*>(tensor.const_data_ptr()),
                      static_cast<size_t>(tensor.nbytes())}};
  } catch (const ValueError& problem) {
    throw ValueError(fmt::format("{} (tensor {})", problem.what(), name));
  }
}

torch::Tensor tensor_copy(const io::TensorView& view) {
  try {
    torch::Tensor tensor = at::empty(view.shape, torch::TensorOptions(torch_dtype(view.dtype)));
    if (!view.bytes.empty()) {
      std::memcpy(tensor.mutable_data_ptr(), view.bytes.data(), view.bytes.size());
    }
    return tensor;
  } catch (const FormatError& problem) {
    throw FormatError(fmt::format("{} (tensor {})", problem.what(), view.name));
  }
}

}  // namespace qlora::lora
