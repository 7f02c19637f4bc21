#include "model/cuda_table.h"

namespace qlora::model {
namespace {

constexpr CudaTable kTable = {{CudaTable::kVersion, sizeof(CudaTable)},
                              &cuda::rms_norm,
                              &cuda::rms_norm_backward,
                              &cuda::rope,
                              &cuda::swiglu,
                              &cuda::swiglu_backward,
                              &cuda::cross_entropy,
                              &cuda::make_activation_store};

}  // namespace
}  // namespace qlora::model

extern "C" [[gnu::visibility("default")]] const qlora::cuda::TableHeader* qlora_model_cuda_table() {
  return &qlora::model::kTable.header;
}
