#pragma once

#include "core/cuda/module.h"
#include "trainer/adamw32_backend.h"
#include "trainer/adamw8_backend.h"
#include "trainer/device_update_backend.h"
#include "trainer/fused_update_backend.h"
#include "trainer/gradient_norm_backend.h"

namespace qlora::trainer {

/// What libqlora_cuda.so hands over for this folder: the functions of namespace cuda.
struct CudaTable {
  static constexpr const char* kSymbol = "qlora_trainer_cuda_table";
  static constexpr uint32_t kVersion = 3;

  qlora::cuda::TableHeader header;
  void (*adamw8)(const Adamw8Args&);
  void (*adamw32)(const Adamw32Args&);
  void (*gradient_norm)(const GradientNormArgs&);
  void (*fused_adamw8)(const FusedAdamw8Args&);
  void (*fused_adamw32)(const FusedAdamw32Args&);
  DeviceOptimizer* (*make_device_optimizer)(std::span<const int64_t>, DeviceStates, int device);
};

}  // namespace qlora::trainer
