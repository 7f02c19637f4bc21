#pragma once

#include <cstdint>

#include "core/float_kind.h"
#include "io/architecture.h"

namespace qlora::model {

/// All arrays hold `count` numbers of one kind.
struct SwigluArgs {
  const void* gate;
  const void* up;
  void* y;
  int64_t count;
  io::Activation activation;
  FloatKind kind;
  void* stream = nullptr;  // cudaStream_t
};

struct SwigluBackwardArgs {
  const void* dy;
  const void* gate;
  const void* up;
  void* dgate;
  void* dup;
  int64_t count;
  io::Activation activation;
  FloatKind kind;
  void* stream = nullptr;
};

namespace cpu {
void swiglu(const SwigluArgs& a);
void swiglu_backward(const SwigluBackwardArgs& a);
}  // namespace cpu

/// Pointers are device memory. All work is queued on args.stream; nothing waits for it.
namespace cuda {
void swiglu(const SwigluArgs& a);
void swiglu_backward(const SwigluBackwardArgs& a);
}  // namespace cuda

}  // namespace qlora::model
