#include "lora/cuda_table.h"

namespace qlora::lora {
namespace {

constexpr CudaTable kTable = {
    {CudaTable::kVersion, sizeof(CudaTable)}, &cuda::lora_sum, &cuda::dropout, &cuda::merge};

}  // namespace
}  // namespace qlora::lora

extern "C" [[gnu::visibility("default")]] const qlora::cuda::TableHeader* qlora_lora_cuda_table() {
  return &qlora::lora::kTable.header;
}
