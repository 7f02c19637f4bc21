#pragma once

#include <cstdint>

#include "core/float_kind.h"
#include "quant/float_math.h"

namespace qlora::quant {

/// Calls f with a null pointer whose type is that of the kind: float*, F16* or BF16*.
template <class F>
void with_kind(FloatKind kind, const F& f) {
  switch (kind) {
    case FloatKind::kF32:
      return f(static_cast<float*>(nullptr));
    case FloatKind::kF16:
      return f(static_cast<F16*>(nullptr));
    case FloatKind::kBF16:
      return f(static_cast<BF16*>(nullptr));
  }
}

/// *least = min(*least, block), from any thread of the device.
__device__ inline void lower_to(int64_t* least, int64_t block) {
  static_assert(sizeof(long long) == sizeof(int64_t));
  atomicMin(reinterpret_cast<long long*>(least), static_cast<long long>(block));
}

}  // namespace qlora::quant
