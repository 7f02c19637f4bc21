#pragma once

#include <cstdint>

#include "trainer/adamw32_backend.h"
#include "trainer/adamw8_backend.h"
#include "trainer/tensor_table.h"
#include "trainer/update_scalars.h"

namespace qlora::trainer {

/// adamw8 and adamw32 on all tensors at once, with everything that changes from step to step read
/// from scalars: the gradient is unscaled and clipped on its way into the update, and where
/// scalars->applied is 0 nothing is written.
///   Numerics  bit-exact with scaled_gradient, then adamw8 or adamw32
struct FusedAdamw8Args {
  TensorTable<Adamw8Tensor> tensors;  // blocks of kAdamwBlock
  const UpdateScalars* scalars;
  void* stream = nullptr;  // cudaStream_t
};

struct FusedAdamw32Args {
  TensorTable<Adamw32Tensor> tensors;  // blocks of kAdamwBlock
  const UpdateScalars* scalars;
  void* stream = nullptr;
};

namespace cpu {
void fused_adamw8(const FusedAdamw8Args& args);
void fused_adamw32(const FusedAdamw32Args& args);
}  // namespace cpu

/// Pointers, those in the tables too, are memory that the device sees. All work is queued on
/// args.stream; nothing waits for it.
namespace cuda {
void fused_adamw8(const FusedAdamw8Args& args);
void fused_adamw32(const FusedAdamw32Args& args);
}  // namespace cuda

}  // namespace qlora::trainer
