#pragma once

#include "core/cuda/module.h"
#include "model/activation_store_backend.h"
#include "model/cross_entropy_backend.h"
#include "model/rms_norm_backend.h"
#include "model/rope_backend.h"
#include "model/swiglu_backend.h"

namespace qlora::model {

/// What libqlora_cuda.so hands over for this folder: the functions of namespace cuda.
struct CudaTable {
  static constexpr const char* kSymbol = "qlora_model_cuda_table";
  static constexpr uint32_t kVersion = 2;

  qlora::cuda::TableHeader header;
  void (*rms_norm)(const RmsNormArgs&);
  void (*rms_norm_backward)(const RmsNormBackwardArgs&);
  void (*rope)(const RopeArgs&);
  void (*swiglu)(const SwigluArgs&);
  void (*swiglu_backward)(const SwigluBackwardArgs&);
  void (*cross_entropy)(const CrossEntropyArgs&);
  ActivationStore* (*make_activation_store)();
};

}  // namespace qlora::model
