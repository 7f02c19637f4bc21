#pragma once

#include <torch/types.h>

#include <string>

#include "core/cuda/device.h"
#include "core/device.h"
#include "core/error.h"
#include "quant/blockwise8_backend.h"
#include "quant/gemv_backend.h"

namespace qlora::quant {

// What the public functions of this folder ask of their arguments, each text once.

/// Shape for a message, "[2, 3]"; "none" where the tensor is undefined.
std::string shape_text(const torch::Tensor& tensor);

/// throws DeviceError for anything but the CPU and CUDA
inline void check_device(const torch::Tensor& tensor, const char* what) {
  QLORA_CHECK(tensor.device().is_cpu() || tensor.is_cuda(), DeviceError,
              "[quant] {} is on device {}, allowed cpu and cuda", what, tensor.device().str());
}

/// throws DeviceError for anything but the CPU
inline void check_on_cpu(const torch::Tensor& tensor, const char* what) {
  QLORA_CHECK(tensor.device().is_cpu(), DeviceError, "[quant] {} is on device {}, allowed cpu",
              what, tensor.device().str());
}

/// throws ShapeError for anything but [N, K] with at least one element
void check_weight(const torch::Tensor& weight);

/// Same where something else has said how many columns there are.
void check_weight(const torch::Tensor& weight, int64_t cols);

/// throws ValueError for another number type
void check_f32(const torch::Tensor& weight);

/// The memory that a whole weight, or some rows of it, is decoded into.
///   rows, cols  to be decoded
///   codes       of the weight
///   throws      ShapeError where out is not contiguous or of another size; DeviceError where the
///               codes are neither on the CPU nor on CUDA, or out is elsewhere
void check_out(const torch::Tensor& out, int64_t rows, int64_t cols, const torch::Tensor& codes);

/// Input and output of a product straight from codes.
///   rows, cols  of the weight
///   codes       of the weight
///   throws      ShapeError where x is not [T, cols], y not [T, rows], or one not contiguous;
///               ValueError where their types differ; DeviceError as check_out
GemvVectors gemv_vectors(const torch::Tensor& codes, int64_t rows, int64_t cols,
                         const torch::Tensor& x, const torch::Tensor& y);

/// throws E for bits that no affine grid has
template <class E>
void check_bits(int64_t bits) {
  if (bits == 2 || bits == 3 || bits == 4 || bits == 8) return;
  throw E(fmt::format("[quant] bits is {}, allowed 2, 3, 4, 8", bits));
}

/// Stream that the back end works on; null on the CPU.
inline void* stream_of(const torch::Tensor& tensor) {
  return tensor.is_cuda() ? qlora::cuda::current_stream(tensor.device().index()) : nullptr;
}

/// Storage for a back end's `first_bad_block`, on the device of `like`.
inline torch::Tensor no_bad_block(const torch::Tensor& like) {
  return torch::full({1}, kNoBadBlock, like.options().dtype(torch::kInt64));
}

/// Index of the first element of `flat` that is not finite, given the first block with one; -1
/// where there is none. Waits for the device.
int64_t first_bad_element(const torch::Tensor& flat, int64_t block_size,
                          const torch::Tensor& first_bad_block);

}  // namespace qlora::quant
