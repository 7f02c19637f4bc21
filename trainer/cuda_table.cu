#include "trainer/cuda_table.h"

namespace qlora::trainer {
namespace {

constexpr CudaTable kTable = {{CudaTable::kVersion, sizeof(CudaTable)},
                              &cuda::adamw8,
                              &cuda::adamw32,
                              &cuda::gradient_norm,
                              &cuda::fused_adamw8,
                              &cuda::fused_adamw32,
                              &cuda::make_device_optimizer};

}  // namespace
}  // namespace qlora::trainer

extern "C" [[gnu::visibility("default")]] const qlora::cuda::TableHeader*
qlora_trainer_cuda_table() {
  return &qlora::trainer::kTable.header;
}
