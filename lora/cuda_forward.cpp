// The program's side of namespace cuda: each call goes to libqlora_cuda.so, which is opened when it
// is wanted first; DeviceError with the reason where it cannot be.
#include "lora/cuda_table.h"

namespace qlora::lora::cuda {
namespace {

const CudaTable& module() {
  return qlora::cuda::table<CudaTable>();
}

}  // namespace

void lora_sum(const LoraSumArgs& args) {
  module().lora_sum(args);
}
void dropout(const DropoutArgs& args) {
  module().dropout(args);
}
void merge(const MergeArgs& args) {
  module().merge(args);
}

}  // namespace qlora::lora::cuda
