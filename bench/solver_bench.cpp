#include <ATen/core/Generator.h>
#include <benchmark/benchmark.h>
#include <torch/types.h>

#include <vector>

#include "core/parallel.h"
#include "quant/affine.h"
#include "quant/awq.h"
#include "quant/gptq.h"

// Solvers on the seven matrices of one block of SmolLM2-135M, two threads.

namespace qlora::quant {
namespace {

torch::Tensor normal(std::vector<int64_t> shape, uint64_t seed) {
  return torch::randn(shape, at::make_generator<at::CPUGeneratorImpl>(seed));
}

/// One place where activations enter linears.
struct Site {
  LinearStatistics statistics;
  std::vector<torch::Tensor> weights;
};

LinearStatistics statistics(int64_t cols, uint64_t seed) {
  const auto x = torch::matmul(normal({2 * cols, cols}, seed), normal({cols, cols}, seed + 1)) *
                 (normal({cols}, seed + 2)).exp();
  return {.gram = torch::matmul(x.t(), x),
          .abs_sum = x.abs().sum(0),
          .abs_max = x.abs().amax({0}),
          .tokens = 2 * cols};
}

const std::vector<Site>& block() {
  static const std::vector<Site> sites = [] {
    set_thread_count(2);
    const auto weight = [](int64_t rows, int64_t cols) {
      return normal({rows, cols}, rows * cols) * 0.03;
    };
    std::vector<Site> made;
    made.push_back({statistics(576, 1), {weight(576, 576), weight(192, 576), weight(192, 576)}});
    made.push_back({statistics(576, 2), {weight(576, 576)}});
    made.push_back({statistics(576, 3), {weight(1536, 576), weight(1536, 576)}});
    made.push_back({statistics(1536, 4), {weight(576, 1536)}});
    return made;
  }();
  return sites;
}

constexpr AffineOptions kGrid{.bits = 4, .group_size = 64};

void gptq_block(benchmark::State& state) {
  GptqOptions options;
  options.scale_search = static_cast<ScaleSearch>(state.range(0));
  for (auto _ : state) {
    for (const Site& site : block()) {
      const GptqFactor factor = factor_gptq(site.statistics, kGrid, options);
      for (const auto& w : site.weights) {
        benchmark::DoNotOptimize(quantize_gptq(w, site.statistics, factor, kGrid, options));
      }
    }
  }
}
BENCHMARK(gptq_block)->Arg(0)->Arg(1)->Arg(2)->Unit(benchmark::kMillisecond)->UseRealTime();

void gptq_factor(benchmark::State& state) {
  for (auto _ : state) {
    for (const Site& site : block()) {
      benchmark::DoNotOptimize(factor_gptq(site.statistics, kGrid, {}));
    }
  }
}
BENCHMARK(gptq_factor)->Unit(benchmark::kMillisecond)->UseRealTime();

void awq_scales_block(benchmark::State& state) {
  for (auto _ : state) {
    for (const Site& site : block()) {
      benchmark::DoNotOptimize(awq_scales(site.weights, site.statistics, kGrid, {}));
    }
  }
}
BENCHMARK(awq_scales_block)->Unit(benchmark::kMillisecond)->UseRealTime();

void awq_clip_block(benchmark::State& state) {
  for (auto _ : state) {
    for (const Site& site : block()) {
      for (const auto& w : site.weights) {
        benchmark::DoNotOptimize(awq_clip(w, site.statistics, kGrid, {}));
      }
    }
  }
}
BENCHMARK(awq_clip_block)->Unit(benchmark::kMillisecond)->UseRealTime();

void round_block(benchmark::State& state) {
  for (auto _ : state) {
    for (const Site& site : block()) {
      for (const auto& w : site.weights) benchmark::DoNotOptimize(round_to_grid(w, kGrid));
    }
  }
}
BENCHMARK(round_block)->Unit(benchmark::kMillisecond)->UseRealTime();

}  // namespace
}  // namespace qlora::quant

BENCHMARK_MAIN();
