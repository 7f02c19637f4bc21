#include "lora/dropout.h"

#include <ATen/ops/empty_like.h>

#include "core/device.h"
#include "lora/dropout_backend.h"
#include "quant/checks.h"

namespace qlora::lora {

uint64_t dropout_stream(std::string_view module_name) {
  uint64_t hash = 0xcbf29ce484222325ull;
  for (const char c : module_name) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3ull;
  return hash;
}

torch::Tensor dropout(const torch::Tensor& x, double p, const DropoutKey& key, uint64_t stream) {
  const torch::Tensor in = x.contiguous();
  torch::Tensor y = at::empty_like(in);
  const DropoutArgs args{.x = in.const_data_ptr(),
                         .y = y.mutable_data_ptr(),
                         .count = in.numel(),
                         .probability = p,
                         .seed = key.seed,
                         // An odd multiplier keeps (module, draw) pairs apart.
                         .stream = stream ^ (key.draw * 0x9E3779B97F4A7C15ull),
                         .kind = float_kind(in.scalar_type()),
                         .device_stream = quant::stream_of(in)};
  in.is_cuda() ? cuda::dropout(args) : cpu::dropout(args);
  return y;
}

}  // namespace qlora::lora
