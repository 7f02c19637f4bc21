#include "core/out_of_memory.h"

#include <gtest/gtest.h>

#include <new>
#include <stdexcept>

#include "core/error.h"

namespace qlora {
namespace {

std::optional<OutOfMemory> read(const char* text) {
  return as_out_of_memory(std::runtime_error(text));
}

TEST(OutOfMemoryError, StandardLibrary) {
  const auto problem = as_out_of_memory(std::bad_alloc());
  ASSERT_TRUE(problem.has_value());
  EXPECT_FALSE(problem->is_device);
  EXPECT_FALSE(problem->wanted_bytes.has_value());
}

TEST(OutOfMemoryError, HostAllocatorSaysHowMuch) {
  const auto problem = read(
      "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: "
      "you tried to allocate 4294967296 bytes. Error code 12 (Cannot allocate memory)");
  ASSERT_TRUE(problem.has_value());
  EXPECT_FALSE(problem->is_device);
  EXPECT_EQ(problem->wanted_bytes, 4294967296U);
}

TEST(OutOfMemoryError, DeviceAllocatorSaysHowMuchInPowersOf1024) {
  const auto gib =
      read("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity");
  ASSERT_TRUE(gib.has_value());
  EXPECT_TRUE(gib->is_device);
  EXPECT_EQ(gib->wanted_bytes, 2684354560U);
  EXPECT_EQ(read("CUDA out of memory. Tried to allocate 20.00 MiB.")->wanted_bytes, 20U << 20);
  EXPECT_EQ(read("CUDA out of memory. Tried to allocate 512 KiB.")->wanted_bytes, 512U << 10);
}

TEST(OutOfMemoryError, CudaAndCublasAreKnownByName) {
  EXPECT_TRUE(read("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate")->is_device);
  const auto ours = as_out_of_memory(
      DeviceError("[cuda] cudaErrorMemoryAllocation (out of memory) in optimizer, adamw.cu:3"));
  ASSERT_TRUE(ours.has_value());
  EXPECT_TRUE(ours->is_device);
  EXPECT_FALSE(ours->wanted_bytes.has_value());
}

TEST(OutOfMemoryError, NumbersThatAreNoneAreLeftOut) {
  for (const char* amount : {"many bytes", "nan bytes", "-3 bytes", "1e300 bytes", "inf GiB", ""}) {
    const std::string text = std::string("CUDA out of memory. Tried to allocate ") + amount;
    const auto problem = read(text.c_str());
    ASSERT_TRUE(problem.has_value()) << text;
    EXPECT_FALSE(problem->wanted_bytes.has_value()) << text;
  }
}

TEST(OutOfMemoryError, OtherErrorsAreOthers) {
  EXPECT_FALSE(read("cannot allocate a name").has_value());
  EXPECT_FALSE(as_out_of_memory(IoError("[io] disk full")).has_value());
}

}  // namespace
}  // namespace qlora
