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
                              &cuda::dequantize_fp8};

}  // namespace
}  // namespace qlora::quant

extern "C" [[gnu::visibility("default")]] const qlora::cuda::TableHeader* qlora_quant_cuda_table() {
  return &qlora::quant::kTable.header;
}
