#pragma once

#include <torch/types.h>

#include <initializer_list>

#include "core/error.h"

namespace qlora::quant {

/// What an op asks before it takes pointers: all its tensors lie where the first does. Undefined
/// ones lie nowhere.
///   throws    DeviceError naming the op and both devices
inline void check_one_device(const char* op, const torch::Tensor& first,
                             std::initializer_list<const torch::Tensor*> others) {
  for (const torch::Tensor* other : others) {
    QLORA_CHECK(!other->defined() || other->device() == first.device(), DeviceError,
                "[{}] tensors lie on {} and {}, allowed one device; move them together", op,
                first.device().str(), other->device().str());
  }
}

}  // namespace qlora::quant
