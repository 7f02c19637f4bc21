// The program's side of namespace cuda: each call goes to libqlora_cuda.so, which is opened when it
// is wanted first; DeviceError with the reason where it cannot be.
#include "quant/cuda_table.h"

namespace qlora::quant::cuda {
namespace {

const CudaTable& module() {
  return qlora::cuda::table<CudaTable>();
}

}  // namespace

void dequantize_nf4(const Nf4DequantArgs& args) {
  module().dequantize_nf4(args);
}
void quantize_nf4(const Nf4QuantArgs& args) {
  module().quantize_nf4(args);
}
void mean(const MeanArgs& args) {
  module().mean(args);
}
void quantize_blockwise8(const Blockwise8QuantArgs& args) {
  module().quantize_blockwise8(args);
}
void dequantize_blockwise8(const Blockwise8DequantArgs& args) {
  module().dequantize_blockwise8(args);
}
void dequantize_packed(const PackedAffineArgs& args) {
  module().dequantize_packed(args);
}
void dequantize_fp8(const Fp8DequantArgs& args) {
  module().dequantize_fp8(args);
}

}  // namespace qlora::quant::cuda
