#pragma once

#include <torch/types.h>

#include "core/error.h"
#include "core/float_kind.h"

namespace qlora {

/// The number type of a tensor for the torch-free back ends.
///   throws    ValueError for anything but f32, f16 and bf16
inline FloatKind float_kind(torch::ScalarType dtype) {
  switch (dtype) {
    case torch::kFloat32:
      return FloatKind::kF32;
    case torch::kFloat16:
      return FloatKind::kF16;
    case torch::kBFloat16:
      return FloatKind::kBF16;
    default:
      throw ValueError(
          fmt::format("[core] number type {} is not f32, f16 or bf16", c10::toString(dtype)));
  }
}

}  // namespace qlora
