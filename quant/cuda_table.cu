#include "quant/cuda_table.h"

namespace qlora::quant {
namespace {

constexpr CudaTable kTable = {{CudaTable::kVersion, sizeof(CudaTable)},
                              &cuda::dequantize_nf4,
                              &cuda::quantize_nf4,
                              &cuda::mean,
                              &cuda::quantize_blockwise8,
                              &cuda::dequantize_blockwise8,
                              &cuda::dequantize_packed,
                              &cuda::dequantize_fp8,
                              &cuda::affine_grids,
                              &cuda::affine_round,
                              &cuda::affine_fit_and_round,
                              &cuda::affine_values,
                              &cuda::quantize_fp8,
                              &cuda::gemv_nf4,
                              &cuda::gemv_packed,
                              &cuda::gemv_words,
                              &cuda::gptq_block,
                              &cuda::search_grids,
                              &cuda::pack_words,
                              &cuda::make_tiled_products};

}  // namespace
}  // namespace qlora::quant

extern "C" [[gnu::visibility("default")]] const qlora::cuda::TableHeader* qlora_quant_cuda_table() {
  return &qlora::quant::kTable.header;
}
