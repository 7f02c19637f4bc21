// The emulated runtime: streams, events, memory, errors, and what the log says of them.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "core/cuda/handles.h"
#include "core/error.h"
#include "tests/emulation/emulated_cuda.h"
#include "tests/emulation/planted/kernels.h"
#include "tests/kernels/back_end.h"
#include "tests/support/errors.h"

namespace qlora::emulation {
namespace {

using cuda::Event;
using cuda::ManagedMemory;
using cuda::Stream;
using testing::message_of;

constexpr int kCount = 300;

class EmulatedRuntime : public ::testing::TestWithParam<uint64_t> {
 protected:
  void SetUp() override {
    device().set_seed(GetParam());
    device().set_capacity(size_t{8} << 30);
    device().set_concurrent_managed_access(true);
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    cudaGetLastError();
    device().clear_operations();
  }
  static EmulatedDevice& device() { return *emulated_device(); }

  static testing::DeviceArray<float> array(float value) {
    return {testing::BackEnd::kCuda, std::vector<float>(kCount, value)};
  }
  /// Position of the first operation that fits, or -1.
  template <class F>
  static int position(const F& fits) {
    const auto done = device().operations();
    const auto found = std::find_if(done.begin(), done.end(), fits);
    return found == done.end() ? -1 : static_cast<int>(found - done.begin());
  }
};

TEST_P(EmulatedRuntime, NothingRunsBeforeSomebodyWaits) {
  const Stream stream;
  auto in = array(1), out = array(2);
  device().clear_operations();
  planted::add_to(in.data(), out.data(), kCount, stream.get());
  EXPECT_TRUE(device().operations().empty());
  EXPECT_EQ(cudaStreamQuery(stream.get()), cudaErrorNotReady);
  stream.synchronize();
  EXPECT_EQ(cudaStreamQuery(stream.get()), cudaSuccess);
  const auto done = device().operations();
  ASSERT_EQ(done.size(), 1u);
  EXPECT_EQ(done[0].kind, OperationKind::kKernel);
  EXPECT_NE(done[0].name.find("add_to_kernel"), std::string::npos);
  EXPECT_EQ(done[0].grid.x, 3u);
  EXPECT_EQ(done[0].block.x, static_cast<uint32_t>(planted::kThreads));
  EXPECT_EQ(done[0].bytes_read, kCount * 2 * sizeof(float));
  EXPECT_EQ(done[0].bytes_written, kCount * sizeof(float));
  EXPECT_LT(done[0].least_block_bytes, done[0].most_block_bytes);  // 44 elements in the last block
}

TEST_P(EmulatedRuntime, AnEventOrdersStreams) {
  const Stream first, second;
  const Event event;
  auto in = array(1), middle = array(0), out = array(0);
  planted::add_to(in.data(), middle.data(), kCount, first.get());
  event.record(first.get());
  event.block(second.get());
  planted::add_to(middle.data(), out.data(), kCount, second.get());
  second.synchronize();
  EXPECT_EQ(out.values()[0], 1);
  const int record = position([](const Operation& o) { return o.kind == OperationKind::kRecord; });
  const int wait = position([](const Operation& o) { return o.kind == OperationKind::kWait; });
  EXPECT_GE(record, 0);
  EXPECT_LT(record, wait);
}

/// A wait is for the latest record before it, and for nothing where there was none.
TEST_P(EmulatedRuntime, AWaitBeforeTheRecordWaitsForNothing) {
  const Stream first, second;
  const Event event;
  auto in = array(1), out = array(0);
  event.block(second.get());
  planted::add_to(in.data(), out.data(), kCount, second.get());
  event.record(first.get());
  second.synchronize();
  EXPECT_EQ(out.values()[0], 1);
  event.synchronize();
  EXPECT_EQ(cudaEventQuery(event.get()), cudaSuccess);
}

TEST_P(EmulatedRuntime, TheDefaultStreamWaitsForBlockingStreamsAlone) {
  cudaStream_t blocking = nullptr;
  ASSERT_EQ(cudaStreamCreate(&blocking), cudaSuccess);
  const Stream side;
  auto in = array(1), out = array(0), other = array(0);
  planted::add_to(in.data(), other.data(), kCount, side.get());
  planted::add_to(in.data(), out.data(), kCount, blocking);
  planted::add_to(out.data(), out.data() + 128, 44,
                  nullptr);  // reads what the blocking stream wrote
  ASSERT_EQ(cudaStreamSynchronize(nullptr), cudaSuccess);
  EXPECT_EQ(out.values()[128], 2);
  side.synchronize();
  EXPECT_EQ(other.values()[0], 1);
  EXPECT_EQ(cudaStreamDestroy(blocking), cudaSuccess);
  EXPECT_EQ(cudaStreamSynchronize(blocking), cudaErrorInvalidResourceHandle);
  cudaGetLastError();
}

TEST_P(EmulatedRuntime, PrefetchesAreLoggedInOrder) {
  const Stream stream;
  const ManagedMemory arena(3 << 20);
  const auto* const base = static_cast<const char*>(arena.get());
  arena.prefetch(0, 2 << 20, 0, stream.get());
  arena.prefetch(2 << 20, 1 << 20, 0, stream.get());
  arena.prefetch(0, 2 << 20, cudaCpuDeviceId, stream.get());
  stream.synchronize();
  const auto done = device().operations();
  ASSERT_EQ(done.size(), 3u);
  EXPECT_EQ(done[0].address, base);
  EXPECT_EQ(done[0].device, 0);
  EXPECT_EQ(done[1].address, base + (2 << 20));
  EXPECT_EQ(done[1].bytes, size_t{1} << 20);
  EXPECT_EQ(done[2].device, -1);
  EXPECT_THROW(arena.prefetch(2 << 20, 2 << 20, 0, stream.get()), DeviceError);  // beyond its end
  device().set_concurrent_managed_access(false);
  EXPECT_THROW(arena.prefetch(0, 2 << 20, 0, stream.get()), DeviceError);
}

TEST_P(EmulatedRuntime, ManagedMemoryIsForBothSides) {
  const ManagedMemory memory(kCount * sizeof(float));
  auto* const values = static_cast<float*>(memory.get());
  std::fill_n(values, kCount, 3.0f);
  auto in = array(4);
  planted::add_to(in.data(), values, kCount, nullptr);
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  EXPECT_EQ(values[kCount - 1], 7);
}

/// Pageable memory is read before the call returns; pinned memory when the copy runs.
TEST_P(EmulatedRuntime, AsynchronousCopiesReadPinnedMemoryLate) {
  const Stream stream;
  std::vector<float> pageable(kCount, 1);
  float* pinned = nullptr;
  ASSERT_EQ(cudaMallocHost(reinterpret_cast<void**>(&pinned), kCount * sizeof(float)), cudaSuccess);
  std::fill_n(pinned, kCount, 1.0f);
  auto from_pageable = array(0), from_pinned = array(0);
  cudaMemcpyAsync(from_pageable.data(), pageable.data(), kCount * sizeof(float),
                  cudaMemcpyHostToDevice, stream.get());
  cudaMemcpyAsync(from_pinned.data(), pinned, kCount * sizeof(float), cudaMemcpyHostToDevice,
                  stream.get());
  std::fill(pageable.begin(), pageable.end(), 2.0f);
  std::fill_n(pinned, kCount, 2.0f);
  stream.synchronize();
  EXPECT_EQ(from_pageable.values()[0], 1);
  EXPECT_EQ(from_pinned.values()[0], 2);
  EXPECT_EQ(cudaFreeHost(pinned), cudaSuccess);
}

TEST_P(EmulatedRuntime, HostFunctionsRunInTheirStream) {
  const Stream stream;
  int calls = 0;
  ASSERT_EQ(cudaLaunchHostFunc(
                stream.get(), [](void* n) { ++*static_cast<int*>(n); }, &calls),
            cudaSuccess);
  EXPECT_EQ(calls, 0);
  stream.synchronize();
  EXPECT_EQ(calls, 1);
}

TEST_P(EmulatedRuntime, MemoryRunsOutAtItsCapacity) {
  device().set_capacity(1000);
  void* first = nullptr;
  void* second = nullptr;
  ASSERT_EQ(cudaMalloc(&first, 600), cudaSuccess);
  EXPECT_EQ(cudaMalloc(&second, 600), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaGetLastError(), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
  size_t free_bytes = 0, total_bytes = 0;
  ASSERT_EQ(cudaMemGetInfo(&free_bytes, &total_bytes), cudaSuccess);
  EXPECT_EQ(free_bytes, 400u);
  EXPECT_EQ(total_bytes, 1000u);
  ASSERT_EQ(cudaFree(first), cudaSuccess);
  EXPECT_EQ(cudaMalloc(&second, 600), cudaSuccess);
  EXPECT_NE(second, first);  // addresses are not given out twice
  EXPECT_EQ(cudaFree(second), cudaSuccess);
  EXPECT_EQ(cudaFree(second), cudaErrorInvalidValue);
  cudaGetLastError();
}

TEST_P(EmulatedRuntime, AGraphRepeatsTheWorkOfItsStream) {
  const Stream stream;
  auto in = array(2), out = array(0);
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  EXPECT_EQ(cudaStreamBeginCapture(nullptr, cudaStreamCaptureModeGlobal),
            cudaErrorStreamCaptureUnsupported);
  EXPECT_EQ(cudaStreamEndCapture(stream.get(), &graph), cudaErrorIllegalState);
  EXPECT_EQ(cudaGraphInstantiate(&executable, nullptr, 0), cudaErrorInvalidValue);
  ASSERT_EQ(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeGlobal), cudaSuccess);
  EXPECT_EQ(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeGlobal),
            cudaErrorIllegalState);
  cudaGetLastError();
  planted::add_to(in.data(), out.data(), kCount, stream.get());
  ASSERT_EQ(cudaStreamEndCapture(stream.get(), &graph), cudaSuccess);
  stream.synchronize();
  EXPECT_EQ(out.values()[0], 0);  // kept, not run
  ASSERT_EQ(cudaGraphInstantiate(&executable, graph, 0), cudaSuccess);
  EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
  for (int i = 0; i < 3; ++i) ASSERT_EQ(cudaGraphLaunch(executable, stream.get()), cudaSuccess);
  stream.synchronize();
  EXPECT_EQ(out.values()[kCount - 1], 6);
  EXPECT_EQ(cudaGraphExecDestroy(executable), cudaSuccess);
}

TEST_P(EmulatedRuntime, WrongCallsAreErrors) {
  auto in = array(1);
  std::vector<float> host(kCount + 1);
  const size_t bytes = kCount * sizeof(float);
  EXPECT_EQ(cudaMemcpy(host.data(), in.data(), bytes + 4, cudaMemcpyDeviceToHost),
            cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpy(host.data(), in.data(), bytes, cudaMemcpyHostToDevice),
            cudaErrorInvalidMemcpyDirection);
  EXPECT_EQ(cudaMemset(host.data(), 0, bytes), cudaErrorInvalidValue);
  EXPECT_EQ(cudaSetDevice(1), cudaErrorInvalidDevice);
  cudaGetLastError();
  const auto* no_stream = reinterpret_cast<cudaStream_t>(host.data());
  EXPECT_SAYS(message_of<DeviceError>([&] {
                planted::add_to(in.data(), in.data(), 1, const_cast<cudaStream_t>(no_stream));
              }),
              "cudaErrorInvalidResourceHandle");
}

INSTANTIATE_TEST_SUITE_P(Seeds, EmulatedRuntime, ::testing::Values(0, 1, 2, 3, 4));

}  // namespace
}  // namespace qlora::emulation
