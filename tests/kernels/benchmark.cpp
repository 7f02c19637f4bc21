#include "tests/kernels/benchmark.h"

#include <cuda_runtime_api.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>

#include "core/cuda/handles.h"
#include "quant/blockwise8_backend.h"
#include "quant/fp8_backend.h"
#include "quant/nf4_backend.h"
#include "quant/packed_affine_backend.h"
#include "tests/emulation/emulated_cuda.h"
#include "tests/kernels/benchmark_arrays.h"
#include "trainer/adamw32_backend.h"
#include "trainer/adamw8_backend.h"

namespace qlora::testing {
namespace {

using cuda::check;

constexpr int64_t kBlock = 64;  // weights that share a scale
constexpr int kRounds = 20;

/// NF4 with double quantization to 16 bits: what every matrix product of training does.
PreparedCall prepare_nf4_dequantize(int64_t n) {
  const auto arrays = std::make_shared<Arrays>();
  const int64_t blocks = n / kBlock;
  const quant::Nf4Scales scales = {.absmax = nullptr,
                                   .codes = arrays->add<uint8_t>(blocks, 200),
                                   .nested_absmax = arrays->add<float>((blocks + 255) / 256, 0.01f),
                                   .offset = 0.02f};
  const quant::Nf4DequantArgs args = {.codes = arrays->add<uint8_t>(n / 2, 0x5A),
                                      .scales = scales,
                                      .type = quant::FourBitType::kNf4,
                                      .block_size = kBlock,
                                      .begin = 0,
                                      .count = n,
                                      .out = arrays->add<uint16_t>(n, 0),
                                      .out_kind = FloatKind::kBF16};
  return call(arrays, n / 2 + blocks + 4 * ((blocks + 255) / 256) + 2 * n,
              [=] { quant::cuda::dequantize_nf4(args); });
}

PreparedCall prepare_nf4_quantize(int64_t n) {
  const auto arrays = std::make_shared<Arrays>();
  const quant::Nf4QuantArgs args = {.in = arrays->add<uint16_t>(n, 0x3F00),
                                    .in_kind = FloatKind::kBF16,
                                    .count = n,
                                    .block_size = kBlock,
                                    .type = quant::FourBitType::kNf4,
                                    .codes = arrays->add<uint8_t>(n / 2, 0),
                                    .absmax = arrays->add<float>(n / kBlock, 0),
                                    .first_bad_block = arrays->add<int64_t>(1, quant::kNoBadBlock)};
  return call(arrays, 2 * n + n / 2 + 4 * n / kBlock, [=] { quant::cuda::quantize_nf4(args); });
}

PreparedCall prepare_blockwise8_quantize(int64_t n) {
  const auto arrays = std::make_shared<Arrays>();
  const quant::Blockwise8QuantArgs args = {
      .in = arrays->add<float>(n, 0.5f),
      .in_kind = FloatKind::kF32,
      .count = n,
      .block_size = 256,
      .map = quant::DynamicMap::kSigned,
      .sign_rule = quant::SignRule::kNearest,
      .codes = arrays->add<uint8_t>(n, 0),
      .absmax = arrays->add<float>(n / 256 + 1, 0),
      .first_bad_block = arrays->add<int64_t>(1, quant::kNoBadBlock)};
  return call(arrays, 4 * n + n + 4 * (n / 256), [=] { quant::cuda::quantize_blockwise8(args); });
}

PreparedCall prepare_blockwise8_dequantize(int64_t n) {
  const auto arrays = std::make_shared<Arrays>();
  const quant::Blockwise8DequantArgs args = {.codes = arrays->add<uint8_t>(n, 3),
                                             .absmax = arrays->add<float>(n / 256 + 1, 1),
                                             .count = n,
                                             .block_size = 256,
                                             .map = quant::DynamicMap::kSigned,
                                             .out = arrays->add<float>(n, 0),
                                             .out_kind = FloatKind::kF32};
  return call(arrays, n + 4 * (n / 256) + 4 * n, [=] { quant::cuda::dequantize_blockwise8(args); });
}

PreparedCall prepare_packed_dequantize(int64_t n) {
  const auto arrays = std::make_shared<Arrays>();
  constexpr int64_t kCols = 1024, kGroup = 128;
  const int64_t rows = n / kCols, groups = kCols / kGroup;
  const quant::PackedAffineArgs args = {.codes = arrays->add<uint8_t>(n / 2, 0x5A),
                                        .row_bytes = kCols / 2,
                                        .two_a_byte = true,
                                        .scales = arrays->add<uint16_t>(rows * groups, 0x2000),
                                        .scale_kind = FloatKind::kF16,
                                        .zeros = arrays->add<uint8_t>(rows * groups, 8),
                                        .group_of = nullptr,
                                        .rows = rows,
                                        .cols = kCols,
                                        .groups = groups,
                                        .group_size = kGroup,
                                        .out = arrays->add<uint16_t>(n, 0),
                                        .out_kind = FloatKind::kF16};
  return call(arrays, n / 2 + 3 * rows * groups + 2 * n,
              [=] { quant::cuda::dequantize_packed(args); });
}

PreparedCall prepare_fp8_dequantize(int64_t n) {
  const auto arrays = std::make_shared<Arrays>();
  constexpr int64_t kCols = 1024;
  const quant::Fp8DequantArgs args = {.codes = arrays->add<uint8_t>(n, 0x38),
                                      .scales = arrays->add<float>(n / kCols, 1),
                                      .scale_per_row = true,
                                      .rows = n / kCols,
                                      .cols = kCols,
                                      .out = arrays->add<uint16_t>(n, 0),
                                      .out_kind = FloatKind::kBF16};
  return call(arrays, n + 4 * (n / kCols) + 2 * n, [=] { quant::cuda::dequantize_fp8(args); });
}

trainer::AdamwStep benchmark_step() {
  return trainer::adamw_step(1e-4, 0.9, 0.999, 1e-8, 0.01, 10);
}

PreparedCall prepare_adamw8(int64_t n) {
  const auto arrays = std::make_shared<Arrays>();
  const int64_t blocks = (n + 255) / 256;
  const trainer::Adamw8Tensor tensor = {arrays->add<float>(n, 0.5f),
                                        arrays->add<float>(n, 0.01f),
                                        arrays->add<uint8_t>(n, 130),
                                        arrays->add<uint8_t>(n, 90),
                                        arrays->add<float>(blocks, 0.01f),
                                        arrays->add<float>(blocks, 1e-4f),
                                        n};
  return call(arrays, 16 * n + 16 * blocks, [=] {
    trainer::cuda::adamw8({.tensors = {&tensor, 1}, .step = benchmark_step()});
  });
}

PreparedCall prepare_adamw32(int64_t n) {
  const auto arrays = std::make_shared<Arrays>();
  const trainer::Adamw32Tensor tensor = {arrays->add<float>(n, 0.5f), arrays->add<float>(n, 0.01f),
                                         arrays->add<float>(n, 0), arrays->add<float>(n, 0), n};
  return call(arrays, 28 * n, [=] {
    trainer::cuda::adamw32({.tensors = {&tensor, 1}, .step = benchmark_step()});
  });
}

/// Milliseconds of one call: the median of kRounds, after one to warm up.
double median_ms(const PreparedCall& prepared) {
  prepared.run();
  std::vector<double> rounds;
  for (int i = 0; i < kRounds; ++i) {
    cudaEvent_t begin = nullptr, end = nullptr;
    check(cudaEventCreate(&begin));
    check(cudaEventCreate(&end));
    check(cudaEventRecord(begin, nullptr));
    prepared.run();
    check(cudaEventRecord(end, nullptr));
    check(cudaEventSynchronize(end));
    float ms = 0;
    check(cudaEventElapsedTime(&ms, begin, end));
    check(cudaEventDestroy(begin));
    check(cudaEventDestroy(end));
    rounds.push_back(ms);
  }
  std::nth_element(rounds.begin(), rounds.begin() + kRounds / 2, rounds.end());
  return rounds[kRounds / 2];
}

/// GB/s that the device's memory can do; 0 where the driver does not say.
double peak_bandwidth() {
  int clock_khz = 0, bus_bits = 0;
  if (cudaDeviceGetAttribute(&clock_khz, cudaDevAttrMemoryClockRate, 0) != cudaSuccess ||
      cudaDeviceGetAttribute(&bus_bits, cudaDevAttrGlobalMemoryBusWidth, 0) != cudaSuccess) {
    cudaGetLastError();
    return 0;
  }
  return 2.0 * clock_khz * 1e3 * bus_bits / 8 / 1e9;  // two transfers a clock
}

constexpr int64_t kCountedElements = 8192;

/// What a call moves under emulation.
struct ByteCount {
  std::string name;
  int64_t least;
  uint64_t read, written;
};

std::vector<ByteCount> byte_counts() {
  std::vector<ByteCount> counts;
  for (const KernelBenchmark& benchmark : kernel_benchmarks()) {
    const PreparedCall prepared = benchmark.prepare(kCountedElements);
    check(cudaDeviceSynchronize());
    emulation::emulated_device()->clear_operations();
    prepared.run();
    check(cudaDeviceSynchronize());
    ByteCount count = {benchmark.name, prepared.bytes, 0, 0};
    for (const auto& o : emulation::emulated_device()->operations()) {
      count.read += o.bytes_read;
      count.written += o.bytes_written;
    }
    counts.push_back(count);
  }
  return counts;
}

}  // namespace

std::vector<KernelBenchmark> kernel_benchmarks() {
  std::vector<KernelBenchmark> all = {
      {"NF4 dequantize to BF16, double quantization", &prepare_nf4_dequantize},
      {"NF4 quantize from BF16", &prepare_nf4_quantize},
      {"8-bit blockwise quantize from FP32", &prepare_blockwise8_quantize},
      {"8-bit blockwise dequantize to FP32", &prepare_blockwise8_dequantize},
      {"packed 4-bit affine dequantize to FP16", &prepare_packed_dequantize},
      {"FP8 dequantize to BF16", &prepare_fp8_dequantize},
      {"AdamW, 8-bit states", &prepare_adamw8},
      {"AdamW, 32-bit states", &prepare_adamw32}};
  for (KernelBenchmark& benchmark : model_benchmarks()) all.push_back(std::move(benchmark));
  return all;
}

void run_benchmarks(int64_t elements, std::ostream& out) {
  const double peak = peak_bandwidth();
  out << fmt::format("{:<46} {:>10} {:>10} {:>8}\n", fmt::format("{} elements a call", elements),
                     "ms", "GB/s", "of peak");
  for (const KernelBenchmark& benchmark : kernel_benchmarks()) {
    const PreparedCall prepared = benchmark.prepare(elements);
    const double ms = median_ms(prepared), rate = static_cast<double>(prepared.bytes) / ms / 1e6;
    out << fmt::format("{:<46} {:>10.4f} {:>10.1f} {:>8}\n", benchmark.name, ms, rate,
                       peak > 0 ? fmt::format("{:.0f}%", 100 * rate / peak) : "-");
  }
  if (peak > 0) out << fmt::format("peak of the device's memory: {:.0f} GB/s\n", peak);
}

void count_bytes(std::ostream& out) {
  for (const ByteCount& count : byte_counts()) {
    out << fmt::format("{}\t{}\t{}\t{}\t{}\n", count.name, kCountedElements, count.least,
                       count.read, count.written);
  }
}

/// Every benchmark's call is a legal one, and moves at least the bytes that it is credited with.
TEST(KernelBenchmarks, MoveTheBytesThatTheyCount) {
  if (emulation::emulated_device() == nullptr) GTEST_SKIP() << "only the emulation counts bytes";
  for (const ByteCount& count : byte_counts()) {
    EXPECT_GE(count.read + count.written, static_cast<uint64_t>(count.least)) << count.name;
    EXPECT_LE(count.read + count.written, static_cast<uint64_t>(12 * count.least))
        << count.name;  // scales, at most
  }
}

}  // namespace qlora::testing
