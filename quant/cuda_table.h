#pragma once

#include "core/cuda/module.h"
#include "quant/blockwise8_backend.h"
#include "quant/fp8_backend.h"
#include "quant/nf4_backend.h"
#include "quant/packed_affine_backend.h"

namespace qlora::quant {

/// What libqlora_cuda.so hands over for this folder: the functions of namespace cuda.
struct CudaTable {
  static constexpr const char* kSymbol = "qlora_quant_cuda_table";
  static constexpr uint32_t kVersion = 2;

  qlora::cuda::TableHeader header;
  void (*dequantize_nf4)(const Nf4DequantArgs&);
  void (*quantize_nf4)(const Nf4QuantArgs&);
  void (*mean)(const MeanArgs&);
  void (*quantize_blockwise8)(const Blockwise8QuantArgs&);
  void (*dequantize_blockwise8)(const Blockwise8DequantArgs&);
  void (*dequantize_packed)(const PackedAffineArgs&);
  void (*dequantize_fp8)(const Fp8DequantArgs&);
};

}  // namespace qlora::quant
