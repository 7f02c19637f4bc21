// States that visit the device chunk by chunk.
#include <vector>

#include "core/cuda/paged_arena_cuda.h"
#include "core/error.h"
#include "tests/kernels/paged.h"
#include "tests/support/errors.h"

namespace qlora::cuda {
namespace {

using emulation::Operation;
using emulation::OperationKind;
using testing::is_prefetch;
using testing::kChunk;
using testing::places;

class PagedArenaTest : public testing::PagedTest {};

TEST_P(PagedArenaTest, ChunksAreCheckedAndBeginAsZeros) {
  EXPECT_ERROR(ValueError, PagedArena(2 * kChunk, {{0, kChunk}, {kChunk, kChunk - 1}}, 0),
               "allowed at least");
  EXPECT_ERROR(ValueError, PagedArena(2 * kChunk, {{0, kChunk}, {kChunk - 1, kChunk}}, 0),
               "allowed: inside");
  EXPECT_ERROR(ValueError, PagedArena(kChunk, {{1, kChunk}}, 0), "allowed: inside");
  const PagedArena arena(1000, {{0, 1000}}, 0);  // the only chunk may be small
  std::vector<std::byte> bytes(1000, std::byte{1});
  check(cudaMemcpy(bytes.data(), arena.data(), 1000, cudaMemcpyDefault));
  EXPECT_EQ(bytes, std::vector<std::byte>(1000));
}

TEST_P(PagedArenaTest, AChunkComesOnceAndGoesOnce) {
  PagedArena arena(2 * kChunk, {{0, kChunk}, {kChunk, kChunk}}, 0);
  if (!arena.is_paged()) GTEST_SKIP() << "no concurrent managed access";
  const Stream stream;
  arena.prefetch(1);
  arena.prefetch(1);
  arena.acquire(1, stream.get());
  arena.acquire(0, stream.get());  // nobody has asked for it before
  arena.release(1, stream.get());
  arena.release(1, stream.get());
  stream.synchronize();
  arena.wait_for_host();
  const auto stats = arena.stats();
  EXPECT_EQ(stats.bytes_in, static_cast<int64_t>(2 * kChunk));
  EXPECT_EQ(stats.bytes_out, static_cast<int64_t>(kChunk));
  EXPECT_GE(stats.stall_ms, 0);
}

// Streams run in a random order where nothing orders them.
TEST_P(PagedArenaTest, WorkOnAChunkRunsBetweenItsArrivalAndItsEviction) {
  auto* const device = emulation::emulated_device();
  if (device == nullptr) GTEST_SKIP() << "the order is asserted under emulation";
  for (uint64_t seed = 1; seed <= 16; ++seed) {
    device->set_seed(seed);
    PagedArena arena(3 * kChunk, {{0, kChunk}, {kChunk, kChunk}, {2 * kChunk, kChunk}}, 0);
    const Stream stream;
    device->clear_operations();
    for (size_t chunk = 0; chunk < 3; ++chunk) {
      arena.acquire(chunk, stream.get());
      check(cudaMemsetAsync(arena.data() + chunk * kChunk, 1, 64, stream.get()));
      arena.release(chunk, stream.get());
    }
    check(cudaDeviceSynchronize());
    const auto log = device->operations();
    const auto in = places(log, [](const Operation& o) { return is_prefetch(o, 0); });
    const auto out = places(log, [](const Operation& o) { return is_prefetch(o, -1); });
    const auto work = places(log, [](const Operation& o) { return o.kind == OperationKind::kSet; });
    ASSERT_EQ(in.size(), 3u);
    ASSERT_EQ(out.size(), 3u);
    ASSERT_EQ(work.size(), 3u);
    for (size_t chunk = 0; chunk < 3; ++chunk) {
      EXPECT_LT(in[chunk], work[chunk]) << "seed " << seed;
      EXPECT_LT(work[chunk], out[chunk]) << "seed " << seed;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(, PagedArenaTest,
                         ::testing::Values(testing::KernelCase{testing::BackEnd::kCuda,
                                                               FloatKind::kF32}),
                         testing::case_name);

}  // namespace
}  // namespace qlora::cuda
