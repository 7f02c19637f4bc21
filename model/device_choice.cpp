#include "model/device_choice.h"

#include <ATen/Context.h>

#include <string_view>

#include "core/cuda/device.h"
#include "core/cuda/module.h"
#include "core/error.h"

namespace qlora::model {
namespace {

/// "[cuda] no driver; install it" -> "no driver".
std::string without_frame(std::string_view message) {
  if (const size_t end = message.find("] "); end != message.npos) message.remove_prefix(end + 2);
  return std::string(message.substr(0, message.find(';')));
}

/// libtorch's defaults round inputs of FP32 products and sums of half ones; ours are exact in the
/// inputs and sum in FP32.
void set_precision() {
  at::Context& context = at::globalContext();
  context.setAllowTF32CuBLAS(false);
  context.setAllowTF32CuDNN(false);
  context.setAllowFP16ReductionCuBLAS(false);
  context.setAllowBF16ReductionCuBLAS(false);
}

/// cuDNN plans attention anew for every length that it has not seen, tens of milliseconds each:
/// packed rows and a growing cache bring a new one all the time. Flash attention needs no plan.
void set_attention() {
  at::globalContext().setSDPUseCuDNN(false);
}

torch::Device open_cuda() {
  cuda::open_module();
  set_precision();
  set_attention();
  return {torch::kCUDA, 0};
}

std::string cuda_notice() {
  const cuda::DeviceInfo info = cuda::device_info(0);
  return fmt::format("device: {}, {:.1f} GB, {:.1f} GB free", info.name,
                     static_cast<double>(info.total_bytes) / 1e9,
                     static_cast<double>(info.free_bytes) / 1e9);
}

std::string cpu_notice(const std::string& obstacle) {
  return "device: the CPU, because " + without_frame(obstacle);
}

}  // namespace

ChosenDevice choose_device(DeviceChoice choice) {
  if (choice == DeviceChoice::kCpu) return {};
  if (choice == DeviceChoice::kCuda) return {open_cuda(), cuda_notice()};
  if (const auto obstacle = cuda::module_obstacle()) return {torch::kCPU, cpu_notice(*obstacle)};
  try {
    return {open_cuda(), cuda_notice()};
  } catch (const DeviceError& obstacle) {  // a driver without a GPU, a GPU that is too old
    return {torch::kCPU, cpu_notice(obstacle.what())};
  }
}

void check_device(DeviceChoice choice) {
  if (choice == DeviceChoice::kCuda) cuda::open_module();
}

bool may_be_cuda(DeviceChoice choice) {
  return choice == DeviceChoice::kCuda ||
         (choice == DeviceChoice::kAuto && !cuda::module_obstacle().has_value());
}

}  // namespace qlora::model
