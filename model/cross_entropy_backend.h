#pragma once

#include <cstdint>

#include "core/float_kind.h"

namespace qlora::model {

/// Logits of one chunk at most: on the CPU they stay in the last cache level between the two
/// products; on a device more rows need fewer launches.
inline constexpr int64_t kLogitChunkBytes = int64_t{16} << 20;
inline constexpr int64_t kDeviceLogitChunkBytes = int64_t{128} << 20;

/// Row by row: nll[t] = log(sum(exp(z[t]))) − z[t, target[t]], computed in FP32, with z the logits,
/// or softcap·tanh(logits / softcap) where there is a cap.
/// With want_gradient the logits are overwritten by gradient_scale·dz·(softmax(z) −
/// onehot(target)), dz = 1, or 1 − (z / softcap)² of a cap.
struct CrossEntropyArgs {
  void* logits;            // [T, V] of kind
  const int64_t* targets;  // [T] in [0, V)
  float* nll;              // [T]
  int64_t tokens, vocabulary;
  float gradient_scale;
  float softcap;  // 0: none
  bool want_gradient;
  FloatKind kind;
  void* stream = nullptr;  // cudaStream_t
};

namespace cpu {
void cross_entropy(const CrossEntropyArgs& a);
}  // namespace cpu

/// Pointers are device memory. All work is queued on args.stream; nothing waits for it.
namespace cuda {
void cross_entropy(const CrossEntropyArgs& a);
}  // namespace cuda

}  // namespace qlora::model
