#pragma once

#include <torch/types.h>

#include <string>

#include "io/safetensors.h"

namespace qlora::lora {

/// Number types of files and of libtorch. Of all modules that see both, this one is lowest.
///   throws    ValueError, FormatError for a type that model files do not hold
io::DType file_dtype(torch::ScalarType dtype);
torch::ScalarType torch_dtype(io::DType dtype);

/// A tensor as an entry of a file; it lives as long as the tensor.
///   tensor    contiguous, on the CPU
///   throws    ValueError naming it where its number type is none of files
io::TensorView tensor_view(const std::string& name, const torch::Tensor& tensor);

/// A tensor in memory of its own: the bytes of a mapped file need not be aligned.
///   throws    FormatError naming it where its type is none of libtorch's
torch::Tensor tensor_copy(const io::TensorView& view);

}  // namespace qlora::lora
