// qlora-cuda-selftest: all kernel tests, and how fast the kernels are. Needs a GPU and its driver,
// and no libtorch; linked against the emulated runtime it is what CI runs.
#include <cuda_runtime_api.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <iostream>
#include <string_view>

#include "tests/emulation/emulated_cuda.h"
#include "tests/kernels/benchmark.h"
#include "tests/kernels/launch_log.h"

namespace {

constexpr int kNoDevice = 77;  // what ctest counts as skipped
constexpr int64_t kBenchmarkElements = int64_t{1} << 26;

constexpr const char* kUsage =
    "qlora-cuda-selftest: tests the CUDA kernels of qlora on this machine's GPU and measures "
    "them.\n"
    "  --no-benchmark       tests only\n"
    "  --check-log FOLDER   (emulated runtime) whether the runs that wrote there reached every "
    "kernel\n"
    "  --count-bytes        (emulated runtime) bytes that each measured call moves\n"
    "  --gtest_filter=…     and Google Test's other options\n";

struct Arguments {
  bool measures = true;
  bool counts_bytes = false;
  std::string check_log;
};

/// False where an argument is not known.
bool parse(int argc, char** argv, Arguments& arguments) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument == "--no-benchmark") {
      arguments.measures = false;
    } else if (argument == "--count-bytes") {
      arguments.counts_bytes = true;
    } else if (argument == "--check-log" && i + 1 < argc) {
      arguments.check_log = argv[++i];
    } else {
      std::cerr << fmt::format("[selftest] unknown argument '{}'\n{}", argument, kUsage);
      return false;
    }
  }
  return true;
}

/// Name and capability of the device; empty where there is none, and the reason in `reason`.
std::string describe_device(std::string& reason) {
  cudaDeviceProp properties = {};
  const cudaError_t status = cudaGetDeviceProperties(&properties, 0);
  if (status != cudaSuccess) {
    reason = cudaGetErrorString(status);
    return {};
  }
  int driver = 0, runtime = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  return fmt::format(
      "{}, compute capability {}.{}, {:.1f} GiB, driver for CUDA {}.{}, runtime {}.{}",
      properties.name, properties.major, properties.minor,
      static_cast<double>(properties.totalGlobalMem) / (1 << 30), driver / 1000, driver % 1000 / 10,
      runtime / 1000, runtime % 1000 / 10);
}

}  // namespace

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  Arguments arguments;
  if (!parse(argc, argv, arguments)) return 2;
  const bool is_emulated = qlora::emulation::emulated_device() != nullptr;
  if (!arguments.check_log.empty()) {
    return is_emulated && qlora::testing::check_launch_log(arguments.check_log, std::cout) ? 0 : 1;
  }
  if (arguments.counts_bytes) {
    if (is_emulated) qlora::testing::count_bytes(std::cout);
    return is_emulated ? 0 : 1;
  }
  if (!::testing::GTEST_FLAG(list_tests)) {
    std::string reason;
    const std::string device = describe_device(reason);
    if (device.empty()) {
      std::cerr << fmt::format("[selftest] no CUDA device: {}; check nvidia-smi\n", reason);
      return kNoDevice;
    }
    std::cout << device << '\n' << std::flush;
  }
  const int status = RUN_ALL_TESTS();
  if (const char* log = std::getenv("QLORA_EMULATION_LOG"); is_emulated && log != nullptr) {
    qlora::testing::write_launch_log(log);
  }
  if (status == 0 && arguments.measures && !is_emulated && !::testing::GTEST_FLAG(list_tests)) {
    qlora::testing::run_benchmarks(kBenchmarkElements, std::cout);
  }
  return status;
}
