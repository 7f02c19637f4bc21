// The program's side of namespace cuda: each call goes to libqlora_cuda.so, which is opened when it
// is wanted first; DeviceError with the reason where it cannot be.
#include "trainer/cuda_table.h"

namespace qlora::trainer::cuda {

void adamw8(const Adamw8Args& args) {
  qlora::cuda::table<CudaTable>().adamw8(args);
}
void adamw32(const Adamw32Args& args) {
  qlora::cuda::table<CudaTable>().adamw32(args);
}
void gradient_norm(const GradientNormArgs& args) {
  qlora::cuda::table<CudaTable>().gradient_norm(args);
}
void fused_adamw8(const FusedAdamw8Args& args) {
  qlora::cuda::table<CudaTable>().fused_adamw8(args);
}
void fused_adamw32(const FusedAdamw32Args& args) {
  qlora::cuda::table<CudaTable>().fused_adamw32(args);
}
DeviceOptimizer* make_device_optimizer(std::span<const int64_t> counts, DeviceStates states,
                                       int device) {
  return qlora::cuda::table<CudaTable>().make_device_optimizer(counts, states, device);
}

}  // namespace qlora::trainer::cuda
