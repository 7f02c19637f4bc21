#pragma once

#include "core/cuda/module.h"
#include "lora/dropout_backend.h"
#include "lora/lora_sum_backend.h"
#include "lora/merge_backend.h"

namespace qlora::lora {

/// What libqlora_cuda.so hands over for this folder: the functions of namespace cuda.
struct CudaTable {
  static constexpr const char* kSymbol = "qlora_lora_cuda_table";
  static constexpr uint32_t kVersion = 1;

  qlora::cuda::TableHeader header;
  void (*lora_sum)(const LoraSumArgs&);
  void (*dropout)(const DropoutArgs&);
  void (*merge)(const MergeArgs&);
};

}  // namespace qlora::lora
