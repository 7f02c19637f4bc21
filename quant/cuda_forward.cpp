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
void affine_grids(const AffineArgs& args) {
  module().affine_grids(args);
}
void affine_round(const AffineArgs& args) {
  module().affine_round(args);
}
void affine_fit_and_round(const AffineArgs& args) {
  module().affine_fit_and_round(args);
}
void affine_values(const AffineArgs& args) {
  module().affine_values(args);
}
void quantize_fp8(const Fp8QuantArgs& args) {
  module().quantize_fp8(args);
}
void gemv_nf4(const Nf4GemvArgs& args) {
  module().gemv_nf4(args);
}
void gemv_packed(const PackedGemvArgs& args) {
  module().gemv_packed(args);
}
void gemv_words(const WordGemvArgs& args) {
  module().gemv_words(args);
}
void gptq_block(const GptqBlockArgs& args) {
  module().gptq_block(args);
}
void search_grids(const GridSearchArgs& args) {
  module().search_grids(args);
}
void pack_words(const PackWordsArgs& args) {
  module().pack_words(args);
}
TiledProducts* make_tiled_products(std::span<std::byte> memory) {
  return module().make_tiled_products(memory);
}

}  // namespace qlora::quant::cuda
