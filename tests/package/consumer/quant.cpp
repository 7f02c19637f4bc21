#include <ATen/ops/linspace.h>
#include <torch/types.h>

#include <cstdio>

#include "quant/nf4.h"

// A matrix to NF4 and back through the installed library and headers.
int main() {
  const torch::Tensor weight = at::linspace(-1, 1, 64 * 64).reshape({64, 64});
  const torch::Tensor back =
      qlora::quant::dequantize_nf4(qlora::quant::quantize_nf4(weight), torch::kFloat32);
  const double error = (back - weight).abs().max().item<double>();
  std::printf("largest error %.4f\n", error);
  return error > 0 && error < 0.16 ? 0 : 1;
}
