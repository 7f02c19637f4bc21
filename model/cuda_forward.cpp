// The program's side of namespace cuda: each call goes to libqlora_cuda.so, which is opened when it
// is wanted first; DeviceError with the reason where it cannot be.
#include "model/cuda_table.h"

namespace qlora::model::cuda {
namespace {

const CudaTable& module() {
  return qlora::cuda::table<CudaTable>();
}

}  // namespace

void rms_norm(const RmsNormArgs& args) {
  module().rms_norm(args);
}
void rms_norm_backward(const RmsNormBackwardArgs& args) {
  module().rms_norm_backward(args);
}
void rope(const RopeArgs& args) {
  module().rope(args);
}
void swiglu(const SwigluArgs& args) {
  module().swiglu(args);
}
void swiglu_backward(const SwigluBackwardArgs& args) {
  module().swiglu_backward(args);
}
void cross_entropy(const CrossEntropyArgs& args) {
  module().cross_entropy(args);
}
ActivationStore* make_activation_store() {
  return module().make_activation_store();
}

}  // namespace qlora::model::cuda
