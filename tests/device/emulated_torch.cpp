#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/view_native.h>
#include <c10/core/Allocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <torch/library.h>
#include <torch/types.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <vector>

#include "core/cuda/module.h"
#include "tests/device/torch_device.h"

namespace at {
namespace {

/// What libtorch asks when it wants to know whether there is CUDA; the registry knows it by this
/// name.
struct CUDAHooks final : CUDAHooksInterface {
  explicit CUDAHooks(CUDAHooksArgs) {}
  void init() const override {}
  /// at::manual_seed sets it; nothing here draws from it.
  const Generator& getDefaultGenerator(DeviceIndex) const override {
    static const Generator unused = detail::createCPUGenerator();
    return unused;
  }
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex deviceCount() const override { return 1; }
  DeviceIndex getCurrentDevice() const override { return 0; }
  void setCurrentDevice(DeviceIndex) const override {}
  DeviceIndex exchangeDevice(DeviceIndex) const override { return 0; }
  DeviceIndex maybeExchangeDevice(DeviceIndex) const override { return 0; }
};

REGISTER_CUDA_HOOKS(CUDAHooks)

}  // namespace
}  // namespace at

namespace qlora::testing {
namespace {

using torch::Tensor;

/// The module's own CUDA runtime. The process has another one of the same name, which libtorch
/// brought along, so its functions are asked of the module by name.
struct Runtime {
  decltype(&::cudaMalloc) malloc = nullptr;
  decltype(&::cudaMemcpy) memcpy = nullptr;
  decltype(&::cudaMemsetAsync) memset = nullptr;
  emulation::EmulatedDevice* (*device)() = nullptr;
};

template <class F>
void find(void* module, const char* name, F& function) {
  function = reinterpret_cast<F>(dlsym(module, name));
  if (function == nullptr) {
    std::fprintf(stderr, "the emulated CUDA module has no %s\n", name);
    std::abort();
  }
}

const Runtime& runtime() {
  static const Runtime found = [] {
    cuda::open_module_file(QLORA_EMULATED_MODULE);
    void* const module = dlopen(QLORA_EMULATED_MODULE, RTLD_NOW | RTLD_NOLOAD);
    Runtime r;
    find(module, "cudaMalloc", r.malloc);
    find(module, "cudaMemcpy", r.memcpy);
    find(module, "cudaMemsetAsync", r.memset);
    find(module, "qlora_emulated_device", r.device);
    return r;
  }();
  return found;
}

void check_status(cudaError_t status, const char* what) {
  TORCH_CHECK(status == cudaSuccess, what, " failed under emulation with error ",
              static_cast<int>(status));
}

void copy_bytes(void* to, const void* from, size_t bytes) {
  if (bytes > 0) check_status(runtime().memcpy(to, from, bytes, cudaMemcpyDefault), "cudaMemcpy");
}

class EmulatedAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    const c10::Device device(c10::kCUDA, 0);
    if (bytes == 0) return {nullptr, nullptr, &give_back, device};
    void* const memory = take(bytes);
    return {memory, memory, &give_back, device};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &give_back; }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    copy_bytes(to, from, bytes);
  }

 private:
  struct Blocks {
    std::mutex mutex;
    std::map<void*, size_t> sizes;
    std::map<size_t, std::vector<void*>> free;
  };
  static Blocks& blocks() {
    static auto* const all = new Blocks;
    return *all;
  }
  static void* take(size_t bytes) {
    const std::lock_guard lock(blocks().mutex);
    auto& free = blocks().free[bytes];
    void* memory = nullptr;
    if (free.empty()) {
      check_status(runtime().malloc(&memory, bytes), "cudaMalloc");
      blocks().sizes[memory] = bytes;
      return memory;
    }
    memory = free.back();
    free.pop_back();
    check_status(runtime().memset(memory, 0xFF, bytes, nullptr), "cudaMemsetAsync");
    return memory;
  }
  static void give_back(void* memory) {
    if (memory == nullptr) return;
    const std::lock_guard lock(blocks().mutex);
    blocks().free[blocks().sizes.at(memory)].push_back(memory);
  }
};

/// One device, one stream.
class EmulatedGuard final : public c10::impl::DeviceGuardImplInterface {
 public:
  static constexpr c10::DeviceType static_type = c10::kCUDA;

  c10::DeviceType type() const override { return c10::kCUDA; }
  c10::Device exchangeDevice(c10::Device) const override { return {c10::kCUDA, 0}; }
  c10::Device getDevice() const override { return {c10::kCUDA, 0}; }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device) const override {
    return c10::Stream(c10::Stream::DEFAULT, c10::Device(c10::kCUDA, 0));
  }
  c10::Stream getDefaultStream(c10::Device device) const override { return getStream(device); }
  c10::Stream exchangeStream(c10::Stream stream) const override { return stream; }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
};

C10_REGISTER_GUARD_IMPL(CUDA, EmulatedGuard)

EmulatedAllocator& allocator() {
  static auto* const one = new EmulatedAllocator;
  return *one;
}

Tensor empty_here(at::IntArrayRef size, std::optional<at::ScalarType> dtype,
                  std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>,
                  std::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(size, &allocator(), c10::DispatchKeySet(c10::DispatchKey::CUDA),
                                   dtype.value_or(at::kFloat), format);
}

Tensor empty_strided_here(at::IntArrayRef size, at::IntArrayRef stride,
                          std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                          std::optional<at::Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(size, stride, &allocator(),
                                           c10::DispatchKeySet(c10::DispatchKey::CUDA),
                                           dtype.value_or(at::kFloat));
}

/// All that a tensor's storage holds, as a CPU tensor that is seen the same way.
Tensor host_image(const Tensor& t) {
  const auto bytes = static_cast<int64_t>(t.storage().nbytes());
  Tensor all = at::empty({bytes}, at::kByte);
  copy_bytes(all.mutable_data_ptr(), t.storage().data(), static_cast<size_t>(bytes));
  Tensor typed = at::empty({0}, at::TensorOptions(t.scalar_type()));
  typed.set_(all.storage(), t.storage_offset(), t.sizes(), t.strides());
  return typed;
}

Tensor on_host(const Tensor& t) {
  if (t.is_cpu()) return t;
  if (!t.is_contiguous()) return host_image(t).contiguous();
  Tensor host = at::empty(t.sizes(), at::TensorOptions(t.scalar_type()));
  if (t.numel() > 0) copy_bytes(host.mutable_data_ptr(), t.const_data_ptr(), host.nbytes());
  return host;
}

/// target.copy_(source) where one of them is on the device.
Tensor& copy_here(Tensor& target, const Tensor& source, bool) {
  if (target.numel() == 0) return target;
  const Tensor from = on_host(source);
  if (target.is_cpu()) return target.copy_(from);
  if (target.is_contiguous()) {
    const Tensor typed = from.to(target.scalar_type()).expand(target.sizes()).contiguous();
    copy_bytes(target.mutable_data_ptr(), typed.const_data_ptr(), typed.nbytes());
    return target;
  }
  Tensor image = host_image(target);
  image.copy_(from);
  copy_bytes(target.storage().mutable_data(), image.storage().data(), image.storage().nbytes());
  return target;
}

/// What the fallback writes results back with.
Tensor copy_and_resize(const Tensor& source, const Tensor& target) {
  Tensor to = target;
  if (to.sizes() != source.sizes()) {
    const Tensor fresh = at::empty(source.sizes(), to.options());
    to.unsafeGetTensorImpl()->set_storage_keep_dtype(fresh.storage());
    to.unsafeGetTensorImpl()->set_storage_offset(0);
    to.unsafeGetTensorImpl()->set_sizes_contiguous(source.sizes());
  }
  return copy_here(to, source, false);
}

void on_cpu(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  at::native::cpu_fallback(op, stack);
}

TORCH_LIBRARY_IMPL(_, CUDA, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&on_cpu>());
}

TORCH_LIBRARY_IMPL(aten, CUDA, library) {
  library.impl("empty.memory_format", TORCH_FN(empty_here));
  library.impl("empty_strided", TORCH_FN(empty_strided_here));
  library.impl("copy_", TORCH_FN(copy_here));
  library.impl("_copy_from_and_resize", TORCH_FN(copy_and_resize));
  library.impl("as_strided", TORCH_FN(at::native::as_strided_tensorimpl));
  library.impl("view", TORCH_FN(at::native::view));
  library.impl("_reshape_alias", TORCH_FN(at::native::_reshape_alias));
}

}  // namespace

emulation::EmulatedDevice* open_torch_device() {
  static const bool is_told = [] {
    c10::SetAllocator(c10::kCUDA, &allocator());
    return true;
  }();
  (void)is_told;
  return runtime().device();
}

}  // namespace qlora::testing
