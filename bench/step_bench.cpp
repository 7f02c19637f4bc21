// Forward and backward of one training step on the real model: 4 segments of 128 tokens.
//   build/bin/step_bench models/smollm2-135m/SmolLM2-135M-Instruct.Q4_1.gguf [threads]
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <vector>

#include "core/parallel.h"
#include "model/decoder.h"

namespace {

double process_cpu_seconds() {
  timespec t{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

qlora::TokenBatch batch_of(int segments, int length) {
  qlora::TokenBatch batch;
  batch.segment_starts = {0};
  for (int s = 0; s < segments; ++s) {
    for (int t = 0; t < length; ++t) {
      batch.tokens.push_back((s * 7919 + t * 104729) % 49000);
      batch.targets.push_back(t + 1 < length ? (s * 7919 + (t + 1) * 104729) % 49000
                                             : qlora::kIgnoreTarget);
    }
    batch.segment_starts.push_back(static_cast<int32_t>(batch.tokens.size()));
  }
  return batch;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: step_bench MODEL [threads]\n");
    return 2;
  }
  const int threads = argc > 2 ? std::atoi(argv[2]) : 1;
  qlora::set_thread_count(threads);
  at::set_num_threads(threads);
  qlora::NullLog log;
  const double start = process_cpu_seconds();
  auto decoder = qlora::model::Decoder::load({.model_path = argv[1]}, {}, log);
  std::printf("load                %.2f CPU-s\n", process_cpu_seconds() - start);
  decoder.add_adapters({.adapter_dtype = qlora::lora::AdapterDtype::kFloat32}, 1);
  const auto batch = batch_of(4, 128);
  std::vector<double> forward, backward;
  for (int i = 0; i < 6; ++i) {
    const double t0 = process_cpu_seconds();
    const auto loss = decoder.loss_sum(batch, {.training = true});
    const double t1 = process_cpu_seconds();
    loss.backward();
    const double t2 = process_cpu_seconds();
    forward.push_back(t1 - t0);
    backward.push_back(t2 - t1);
    for (auto& p : decoder.trainable_parameters()) p.mutable_grad().zero_();
  }
  std::nth_element(forward.begin(), forward.begin() + 3, forward.end());
  std::nth_element(backward.begin(), backward.begin() + 3, backward.end());
  std::printf("forward %.3f, backward %.3f CPU-s: %.1f tokens per CPU-second (%d threads)\n",
              forward[3], backward[3], 512 / (forward[3] + backward[3]), threads);
  return 0;
}
