// Weights per second of the quantization back ends, per instruction set.
//   build/bench/quant_bench --benchmark_filter='dequantize_nf4/.*threads:1'
// The tile of 1536 x 576 is SmolLM2-135M's MLP matrix: 0.46 MB of codes and scales, 1.8 MB of bf16.
#include <benchmark/benchmark.h>

#include <functional>
#include <random>
#include <string>
#include <vector>

#include "core/parallel.h"
#include "quant/blockwise8_backend.h"
#include "quant/nf4_backend.h"
#include "tests/support/simd_targets.h"

namespace qlora::quant {
namespace {

constexpr int64_t kRows = 1536;
constexpr int64_t kCols = 576;
constexpr int64_t kCount = kRows * kCols;
constexpr int64_t kBlocks = kCount / 64;

const char* name_of(FloatKind kind) {
  return kind == FloatKind::kF32 ? "f32" : kind == FloatKind::kF16 ? "f16" : "bf16";
}

/// A tile with double-quantized scales, and its values in f32 and as 16-bit numbers.
struct Tile {
  std::vector<float> values = std::vector<float>(kCount);
  std::vector<uint16_t> halves = std::vector<uint16_t>(kCount);
  std::vector<uint8_t> codes = std::vector<uint8_t>(kCount / 2);
  std::vector<float> absmax = std::vector<float>(kBlocks);
  std::vector<uint8_t> absmax_codes = std::vector<uint8_t>(kBlocks);
  std::vector<float> nested_absmax = std::vector<float>(kBlocks / kNestedBlockSize + 1, 0.02f);
  std::vector<float> out = std::vector<float>(kCount);
  int64_t first_bad_block = kNoBadBlock;

  Tile() {
    std::mt19937 random(1);
    std::normal_distribution<float> normal(0, 0.02f);
    for (float& value : values) value = normal(random);
    for (int64_t i = 0; i < kCount; ++i) halves[i] = float_to_bf16(values[i]);
    for (uint8_t& code : codes) code = static_cast<uint8_t>(random());
    for (uint8_t& code : absmax_codes) code = static_cast<uint8_t>(random());
  }

  const void* input(FloatKind kind) const {
    return kind == FloatKind::kF32 ? static_cast<const void*>(values.data()) : halves.data();
  }
};

Tile& tile() {
  static Tile shared;
  return shared;
}

template <class Call>
void measure(benchmark::State& state, int64_t target, int threads, const Call& call) {
  const testing::UseSimdTarget use(target);
  const int before = thread_count();
  set_thread_count(threads);
  for (auto _ : state) {
    call();
    benchmark::ClobberMemory();
  }
  set_thread_count(before);
  state.SetItemsProcessed(state.iterations() * kCount);
}

void add(const std::string& name, int64_t target, int threads, const std::function<void()>& call) {
  const std::string full =
      name + "/" + hwy::TargetName(target) + "/threads:" + std::to_string(threads);
  auto* const registered = benchmark::RegisterBenchmark(
      full.c_str(), [=](benchmark::State& state) { measure(state, target, threads, call); });
  // One thread is measured in CPU time, which a busy machine spoils less.
  if (threads > 1) registered->UseRealTime();
}

void add_all(int64_t target, int threads) {
  for (const FloatKind kind : {FloatKind::kF32, FloatKind::kF16, FloatKind::kBF16}) {
    add(std::string("dequantize_nf4/") + name_of(kind), target, threads, [kind] {
      Tile& t = tile();
      cpu::dequantize_nf4({t.codes.data(),
                           {nullptr, t.absmax_codes.data(), t.nested_absmax.data(), 0.05f},
                           FourBitType::kNf4,
                           64,
                           0,
                           kCount,
                           t.out.data(),
                           kind});
    });
  }
  for (const FloatKind kind : {FloatKind::kF32, FloatKind::kBF16}) {
    add(std::string("quantize_nf4/") + name_of(kind), target, threads, [kind] {
      Tile& t = tile();
      cpu::quantize_nf4({t.input(kind), kind, kCount, 64, FourBitType::kNf4, t.codes.data(),
                         t.absmax.data(), &t.first_bad_block});
    });
  }
  for (const DynamicMap map : {DynamicMap::kSigned, DynamicMap::kUnsigned}) {
    const std::string suffix = map == DynamicMap::kSigned ? "signed" : "unsigned";
    add("quantize_blockwise8/" + suffix, target, threads, [map] {
      static std::vector<uint8_t> codes(kCount);
      static std::vector<float> absmax(kCount / 256);
      Tile& t = tile();
      cpu::quantize_blockwise8({t.values.data(), FloatKind::kF32, kCount, 256, map,
                                SignRule::kNearest, codes.data(), absmax.data(),
                                &t.first_bad_block});
    });
    add("dequantize_blockwise8/" + suffix, target, threads, [map] {
      static std::vector<uint8_t> codes(kCount, 201);
      static std::vector<float> absmax(kCount / 256, 0.5f);
      cpu::dequantize_blockwise8(
          {codes.data(), absmax.data(), kCount, 256, map, tile().out.data(), FloatKind::kF32});
    });
  }
}

}  // namespace
}  // namespace qlora::quant

int main(int argc, char** argv) {
  for (const int64_t target : qlora::testing::simd_targets()) {
    for (const int threads : {1, 2}) qlora::quant::add_all(target, threads);
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
