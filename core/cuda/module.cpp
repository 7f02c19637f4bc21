#include "core/cuda/module.h"

#include <dlfcn.h>

#include <atomic>
#include <mutex>
#include <string>
#include <system_error>

#include "core/cuda/device.h"
#include "core/error.h"

namespace qlora::cuda {
namespace {

constexpr const char* kFileName = "libqlora_cuda.so";
constexpr const char* kDriver = "libcuda.so.1";

std::recursive_mutex opening;
std::atomic<void*> module_handle = nullptr;

std::filesystem::path program_folder() {
  std::error_code ignored;
  return std::filesystem::read_symlink("/proc/self/exe", ignored).parent_path();
}

std::filesystem::path find_module_file() {
  const auto folder = program_folder();
  std::string tried;
  for (const char* relative : {".", "../lib/qlora", "../lib", "../bin"}) {
    auto file = (folder / relative / kFileName).lexically_normal();
    std::error_code ignored;
    if (std::filesystem::exists(file, ignored)) return file;
    tried += (tried.empty() ? "" : ", ") + file.parent_path().string();
  }
  throw DeviceError(
      fmt::format("[cuda] {} is not there, looked in {}; build with -DQLORA_CUDA=ON and install "
                  "component cuda, "
                  "or choose the device cpu",
                  kFileName, tried));
}

void check_driver() {
  void* const driver = dlopen(kDriver, RTLD_LAZY | RTLD_LOCAL);
  if (driver == nullptr) {
    throw DeviceError(fmt::format(
        "[cuda] no NVIDIA driver: {}; install the driver, or choose the device cpu", dlerror()));
  }
  dlclose(driver);
}

}  // namespace

bool module_is_open() {
  return module_handle.load() != nullptr;
}

void open_module_file(const std::filesystem::path& file) {
  const std::lock_guard lock(opening);
  if (module_is_open()) return;
  // Never closed: libtorch_cuda registers itself in libtorch for good.
  void* const handle = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    throw DeviceError(
        fmt::format("[cuda] {} cannot be loaded: {}; build it together with the program",
                    file.string(), dlerror()));
  }
  module_handle = handle;
}

void open_module() {
  const std::lock_guard lock(opening);
  if (module_is_open()) return;
  check_driver();
  open_module_file(find_module_file());
  QLORA_CHECK(device_count() > 0, DeviceError,
              "[cuda] the driver sees no GPU, allowed at least 1; check nvidia-smi and "
              "CUDA_VISIBLE_DEVICES, or choose the device cpu");
  check_capability(device_info(0));
}

std::optional<std::string> module_obstacle() {
  if (module_is_open()) return std::nullopt;
  try {
    check_driver();
    find_module_file();
    return std::nullopt;
  } catch (const DeviceError& obstacle) {
    return obstacle.what();
  }
}

const TableHeader* find_table(const char* symbol, uint32_t version, uint32_t size_bytes) {
  if (!module_is_open()) open_module();
  using TableFunction = const TableHeader* (*)();
  const auto function = reinterpret_cast<TableFunction>(dlsym(module_handle, symbol));
  QLORA_CHECK(function != nullptr, DeviceError,
              "[cuda] {} has no {}; build it together with the program", kFileName, symbol);
  const TableHeader* const header = function();
  QLORA_CHECK(header->version == version && header->size_bytes == size_bytes, DeviceError,
              "[cuda] {} of {} has version {} ({} bytes), wanted {} ({} bytes); build it together "
              "with the program",
              symbol, kFileName, header->version, header->size_bytes, version, size_bytes);
  return header;
}

}  // namespace qlora::cuda
