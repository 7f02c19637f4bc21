#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "tests/emulation/device/translated.h"
#include "tests/emulation/runtime/fatbin.h"
#include "tests/emulation/runtime/state.h"

// How kernels become known and are launched: what nvcc's generated code calls.

namespace qlora::emulation {
namespace {

/// A fat binary that the program registered.
struct Module {
  const Translation* translation;
  uint64_t ptx_hash;  // 0: no PTX for this device
};

struct Kernel {
  const Module* module;
  const Entry* entry;
  std::string name;
  size_t allowed_dynamic_shared = 48 << 10;
};

struct CallConfiguration {
  dim3 grid, block;
  size_t shared_bytes;
  cudaStream_t stream;
};

/// Shared bytes of a block, on request. CUDA C++ Programming Guide 13.0, table "Technical
/// Specifications per Compute Capability".
size_t most_shared() {
  switch (device_settings().capability) {
    case 80:
    case 87:
      return 163 << 10;
    case 90:
    case 100:
    case 103:
      return 227 << 10;
    default:
      return 99 << 10;
  }
}

std::vector<std::unique_ptr<Module>>& modules() {
  static std::vector<std::unique_ptr<Module>> all;
  return all;
}
std::map<const void*, Kernel>& kernels() {
  static std::map<const void*, Kernel> all;
  return all;
}
std::vector<CallConfiguration>& configurations() {
  static std::vector<CallConfiguration> stack;
  return stack;
}

Module* register_module(const void* wrapper) {
  const std::string_view ptx = find_ptx(wrapper, device_settings().capability);
  auto module = std::make_unique<Module>();
  module->ptx_hash = ptx.empty() ? 0 : hash_of(ptx);
  module->translation = find_translation(module->ptx_hash);
  if (module->translation != nullptr) {
    for (const auto& v : module->translation->contents.variables) {
      memory().add(v.memory, v.size_bytes, MemoryKind::kVariable, v.is_constant);
    }
  }
  modules().push_back(std::move(module));
  return modules().back().get();
}

const Entry* find_entry(const Module& module, const char* name) {
  if (module.translation == nullptr) return nullptr;
  for (const Entry& entry : module.translation->contents.entries) {
    if (std::strcmp(entry.name, name) == 0) return &entry;
  }
  return nullptr;
}

Index index_of(dim3 d) {
  return {d.x, d.y, d.z};
}

cudaError_t check_shape(const Kernel& kernel, dim3 grid, dim3 block, size_t dynamic_shared) {
  const uint64_t threads = index_of(block).count();
  const bool is_grid = grid.x >= 1 && grid.x <= INT32_MAX && grid.y >= 1 && grid.y <= 65535 &&
                       grid.z >= 1 && grid.z <= 65535;
  if (!is_grid || threads == 0 || threads > kMaxThreads || block.x > 1024 || block.y > 1024 ||
      block.z > 64) {
    return cudaErrorInvalidConfiguration;
  }
  if (kernel.entry->max_threads != 0 && threads > kernel.entry->max_threads)
    return cudaErrorLaunchOutOfResources;
  return dynamic_shared + kernel.entry->shared_bytes >
                 std::max<size_t>(kernel.allowed_dynamic_shared, 48 << 10)
             ? cudaErrorInvalidValue
             : cudaSuccess;
}

cudaError_t launch(const Kernel& kernel, dim3 grid, dim3 block, void** arguments,
                   size_t dynamic_shared, cudaStream_t stream) {
  if (kernel.module->ptx_hash == 0) return remember(cudaErrorNoKernelImageForDevice);
  if (kernel.entry == nullptr) {
    std::fputs(
        fmt::format(
            "[emulation] {} is not translated (PTX {:016x}); translate the object that holds it "
            "(tests/emulation/CMakeLists.txt)\n",
            demangle(kernel.name.c_str()), kernel.module->ptx_hash)
            .c_str(),
        stderr);
    std::abort();
  }
  Stream* const queue = schedule().find_stream(stream);
  if (queue == nullptr) return remember(cudaErrorInvalidResourceHandle);
  if (const cudaError_t status = check_shape(kernel, grid, block, dynamic_shared);
      status != cudaSuccess)
    return remember(status);
  Launch work = {kernel.entry, index_of(grid), index_of(block), dynamic_shared,
                 std::vector<char>(kernel.entry->parameter_bytes)};
  for (size_t i = 0; i < kernel.entry->parameters.size(); ++i) {
    const auto& parameter = kernel.entry->parameters[i];
    std::memcpy(work.parameters.data() + parameter.offset, arguments[i], parameter.size_bytes);
  }
  const Operation operation = {.kind = OperationKind::kKernel,
                               .stream = queue->number,
                               .name = kernel.name,
                               .grid = {grid.x, grid.y, grid.z},
                               .block = {block.x, block.y, block.z},
                               .shared_bytes = dynamic_shared};
  schedule().add(*queue, operation, [work = std::move(work)](Operation& o) {
    const LaunchCounts counts = machine().run(work);
    o.bytes_read = counts.bytes_read;
    o.bytes_written = counts.bytes_written;
    o.least_block_bytes = counts.least_block_bytes;
    o.most_block_bytes = counts.most_block_bytes;
  });
  return cudaSuccess;
}

}  // namespace

std::vector<std::string> registered_entries() {
  std::vector<std::string> names;
  for (const auto& module : modules()) {
    if (module->translation == nullptr) continue;
    for (const Entry& entry : module->translation->contents.entries) names.emplace_back(entry.name);
  }
  return names;
}

}  // namespace qlora::emulation

using namespace qlora::emulation;

extern "C" {

void** __cudaRegisterFatBinary(void* wrapper) {
  return reinterpret_cast<void**>(register_module(wrapper));
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
char __cudaInitModule(void**) {
  return 1;
}

void __cudaRegisterFunction(void** module, const char* host_function, char*, const char* name, int,
                            uint3*, uint3*, dim3*, dim3*, int*) {
  const auto* const of_module = reinterpret_cast<const Module*>(module);
  kernels()[host_function] = {of_module, find_entry(*of_module, name), name};
}
void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared_bytes,
                                     cudaStream_t stream) {
  configurations().push_back({grid, block, shared_bytes, stream});
  return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared_bytes,
                                       void* stream) {
  const CallConfiguration top = configurations().back();
  configurations().pop_back();
  *grid = top.grid;
  *block = top.block;
  *shared_bytes = top.shared_bytes;
  *static_cast<cudaStream_t*>(stream) = top.stream;
  return cudaSuccess;
}

cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* host_function) {
  const auto found = kernels().find(host_function);
  if (found == kernels().end()) return remember(cudaErrorInvalidDeviceFunction);
  *kernel = reinterpret_cast<cudaKernel_t>(&found->second);
  return cudaSuccess;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** arguments,
                               size_t shared_bytes, cudaStream_t stream) {
  return launch(*reinterpret_cast<const Kernel*>(kernel), grid, block, arguments, shared_bytes,
                stream);
}
cudaError_t cudaLaunchKernel(const void* host_function, dim3 grid, dim3 block, void** arguments,
                             size_t shared_bytes, cudaStream_t stream) {
  const auto found = kernels().find(host_function);
  if (found == kernels().end()) return remember(cudaErrorInvalidDeviceFunction);
  return launch(found->second, grid, block, arguments, shared_bytes, stream);
}

cudaError_t cudaFuncSetAttribute(const void* host_function, cudaFuncAttribute attribute,
                                 int value) {
  const auto found = kernels().find(host_function);
  if (found == kernels().end()) return remember(cudaErrorInvalidDeviceFunction);
  if (attribute == cudaFuncAttributePreferredSharedMemoryCarveout) return cudaSuccess;
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0 ||
      static_cast<size_t>(value) > most_shared()) {
    return remember(cudaErrorInvalidValue);
  }
  found->second.allowed_dynamic_shared = static_cast<size_t>(value);
  return cudaSuccess;
}

}  // extern "C"
