#pragma once

#include "core/cuda/module.h"
#include "quant/affine_backend.h"
#include "quant/blockwise8_backend.h"
#include "quant/fp8_backend.h"
#include "quant/gemv_backend.h"
#include "quant/gptq_backend.h"
#include "quant/nf4_backend.h"
#include "quant/pack_words_backend.h"
#include "quant/packed_affine_backend.h"
#include "quant/tiled_products_backend.h"

namespace qlora::quant {

/// What libqlora_cuda.so hands over for this folder: the functions of namespace cuda.
struct CudaTable {
  static constexpr const char* kSymbol = "qlora_quant_cuda_table";
  static constexpr uint32_t kVersion = 4;

  qlora::cuda::TableHeader header;
  void (*dequantize_nf4)(const Nf4DequantArgs&);
  void (*quantize_nf4)(const Nf4QuantArgs&);
  void (*mean)(const MeanArgs&);
  void (*quantize_blockwise8)(const Blockwise8QuantArgs&);
  void (*dequantize_blockwise8)(const Blockwise8DequantArgs&);
  void (*dequantize_packed)(const PackedAffineArgs&);
  void (*dequantize_fp8)(const Fp8DequantArgs&);
  void (*affine_grids)(const AffineArgs&);
  void (*affine_round)(const AffineArgs&);
  void (*affine_fit_and_round)(const AffineArgs&);
  void (*affine_values)(const AffineArgs&);
  void (*quantize_fp8)(const Fp8QuantArgs&);
  void (*gemv_nf4)(const Nf4GemvArgs&);
  void (*gemv_packed)(const PackedGemvArgs&);
  void (*gemv_words)(const WordGemvArgs&);
  void (*gptq_block)(const GptqBlockArgs&);
  void (*search_grids)(const GridSearchArgs&);
  void (*pack_words)(const PackWordsArgs&);
  TiledProducts* (*make_tiled_products)(std::span<std::byte>);
};

}  // namespace qlora::quant
