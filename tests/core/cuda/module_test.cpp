// libqlora_cuda.so as the program finds it. The process opens it once and for all, so the tests of
// the closed state stand first and skip themselves where it is open already.
#include "core/cuda/module.h"

#include <dlfcn.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "core/cuda/device.h"
#include "core/error.h"
#include "lora/cuda_table.h"
#include "model/cuda_table.h"
#include "quant/cuda_table.h"
#include "tests/support/errors.h"
#include "tests/support/temporary_folder.h"
#include "trainer/cuda_table.h"

namespace qlora::cuda {
namespace {

using testing::message_of;

const std::filesystem::path kModuleFile =
    std::filesystem::path(QLORA_BINARY_DIR) / "bin/libqlora_cuda.so";

bool has_driver() {
  return dlopen("libcuda.so.1", RTLD_LAZY) != nullptr;
}

class ClosedModule : public ::testing::Test {
 protected:
  void SetUp() override {
    if (module_is_open()) GTEST_SKIP() << "the module is open already";
  }
};

TEST_F(ClosedModule, WithoutADriverTheReasonIsGiven) {
  if (has_driver()) GTEST_SKIP() << "a CUDA driver is there";
  const auto reason = message_of<DeviceError>([] { open_module(); });
  EXPECT_SAYS(reason, "no NVIDIA driver");
  EXPECT_SAYS(reason, "libcuda.so.1");
  EXPECT_SAYS(reason, "choose the device cpu");
  EXPECT_EQ(message_of<DeviceError>([] { device_count(); }), reason);
  EXPECT_EQ(message_of<DeviceError>([] { device_info(0); }), reason);
  EXPECT_EQ(message_of<DeviceError>([] { current_stream(0); }), reason);
  EXPECT_EQ(module_obstacle(), reason);
  EXPECT_FALSE(module_is_open());
}

TEST_F(ClosedModule, AFileThatIsMissingOrNoLibraryIsRefused) {
  EXPECT_SAYS(message_of<DeviceError>([] { open_module_file("/nowhere/libqlora_cuda.so"); }),
              "/nowhere/libqlora_cuda.so cannot be loaded");
  const testing::TemporaryFolder folder;
  const auto file = folder.put("no_library.so", "text");
  EXPECT_SAYS(message_of<DeviceError>([&] { open_module_file(file); }), "cannot be loaded");
  EXPECT_FALSE(module_is_open());
}

TEST(Capability, OlderThanTheKernelsIsRefusedByName) {
  DeviceInfo info = {.name = "NVIDIA GeForce GTX 1080", .major = 6, .minor = 1};
  const auto text = message_of<DeviceError>([&] { check_capability(info); });
  EXPECT_SAYS(text, "GTX 1080");
  EXPECT_SAYS(text, "6.1");
  EXPECT_SAYS(text, "8.0 and above");
  info.major = 7;
  info.minor = 5;
  EXPECT_ERROR(DeviceError, check_capability(info), "7.5");
  for (const auto& [major, minor] : {std::pair{8, 0}, {8, 6}, {9, 0}, {12, 0}}) {
    info.major = major;
    info.minor = minor;
    EXPECT_NO_THROW(check_capability(info)) << major << "." << minor;
  }
}

class OpenModule : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(kModuleFile)) GTEST_SKIP() << "built without the CUDA module";
    open_module_file(kModuleFile);
    ASSERT_TRUE(module_is_open());
  }
};

/// All symbols are resolved when it is opened (RTLD_NOW); every entry of every table is set.
template <class T>
void expect_full_table() {
  const T& found = table<T>();
  EXPECT_EQ(found.header.version, T::kVersion);
  ASSERT_EQ(found.header.size_bytes, sizeof(T));
  const auto* entry = reinterpret_cast<void* const*>(&found + 1);
  const auto* first = reinterpret_cast<void* const*>(&found.header + 1);
  EXPECT_GT(entry - first, 0);
  while (entry-- > first) EXPECT_NE(*entry, nullptr) << "entry " << entry - first;
}

TEST_F(OpenModule, HandsOverFullTables) {
  expect_full_table<CoreTable>();
  expect_full_table<lora::CudaTable>();
  expect_full_table<model::CudaTable>();
  expect_full_table<quant::CudaTable>();
  expect_full_table<trainer::CudaTable>();
}

TEST_F(OpenModule, OpeningItAgainDoesNothing) {
  open_module_file("/nowhere/libqlora_cuda.so");
  EXPECT_TRUE(module_is_open());
  EXPECT_EQ(module_obstacle(), std::nullopt);
}

TEST_F(OpenModule, ATableOfAnotherVersionOrSizeIsRefused) {
  const auto find = [](uint32_t version, uint32_t size) {
    return message_of<DeviceError>([&] { find_table(CoreTable::kSymbol, version, size); });
  };
  EXPECT_SAYS(find(CoreTable::kVersion + 1, sizeof(CoreTable)), "build it together");
  EXPECT_SAYS(find(CoreTable::kVersion, sizeof(CoreTable) + 8), "bytes), wanted");
  EXPECT_SAYS(message_of<DeviceError>([] { find_table("qlora_no_such_table", 1, 8); }),
              "has no qlora_no_such_table");
}

/// Errors made inside the module arrive as the program's own types.
TEST_F(OpenModule, ErrorsCrossTheBorder) {
  EXPECT_SAYS(message_of<ValueError>([] { quant::cuda::mean({}); }), "a launch over 0 items");
  if (has_driver()) GTEST_SKIP() << "a CUDA driver is there";
  EXPECT_SAYS(message_of<DeviceError>([] { device_count(); }), "cudaErrorInsufficientDriver");
  const auto launch = message_of<DeviceError>([] {
    quant::Nf4DequantArgs args = {};
    args.block_size = 64;
    args.count = 64;
    quant::cuda::dequantize_nf4(args);
  });
  EXPECT_SAYS(launch, "nf4_cuda.cu");
  EXPECT_SAYS(launch, "choose the device cpu");
}

}  // namespace
}  // namespace qlora::cuda
