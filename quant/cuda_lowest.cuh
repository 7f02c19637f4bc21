#pragma once

#include <cstdint>

namespace qlora::quant {

/// *least = min(*least, block), from any thread of the device.
__device__ inline void lower_to(int64_t* least, int64_t block) {
  static_assert(sizeof(long long) == sizeof(int64_t));
  atomicMin(reinterpret_cast<long long*>(least), static_cast<long long>(block));
}

}  // namespace qlora::quant
