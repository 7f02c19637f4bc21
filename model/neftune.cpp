#include "model/neftune.h"

#include <ATen/ops/zeros.h>

#include <cmath>

#include "core/parallel.h"
#include "core/rng.h"

namespace qlora::model {

void add_neftune_noise(torch::Tensor& h, const std::vector<int32_t>& segment_starts, double alpha,
                       uint64_t seed, uint64_t draw) {
  if (!h.is_cpu()) {  // the numbers are drawn here, whatever the device
    torch::Tensor noise = at::zeros(h.sizes(), torch::kFloat32);
    add_neftune_noise(noise, segment_starts, alpha, seed, draw);
    h.add_(noise.to(h.device()));
    return;
  }
  constexpr uint64_t kNeftuneStream = 0x4E4546547565ull;  // apart from every dropout stream
  const int64_t width = h.size(1);
  float* values = h.mutable_data_ptr<float>();
  for (size_t s = 0; s + 1 < segment_starts.size(); ++s) {
    const int64_t begin = segment_starts[s], length = segment_starts[s + 1] - begin;
    const double size = alpha / std::sqrt(static_cast<double>(length * width));
    parallel_for(length, 16, [&](int64_t first, int64_t last) {
      for (int64_t t = begin + first; t < begin + last; ++t) {
        for (int64_t c = 0; c < width; ++c) {
          const uint64_t i = static_cast<uint64_t>(t * width + c);
          const auto block = philox4x32(i / 4, kNeftuneStream + draw, seed);
          const double unit = unit_float(block.word[i % 4]);
          values[i] += static_cast<float>((2 * unit - 1) * size);
        }
      }
    });
  }
}

}  // namespace qlora::model
