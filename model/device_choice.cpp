#include "model/device_choice.h"

#include <string_view>

#include "core/cuda/module.h"
#include "core/error.h"

namespace qlora::model {
namespace {

constexpr const char* kNoCudaPath = "the decoder of this version runs on the CPU";

/// "[cuda] no driver; install it" -> "no driver".
std::string without_frame(std::string_view message) {
  if (const size_t end = message.find("] "); end != message.npos) message.remove_prefix(end + 2);
  return std::string(message.substr(0, message.find(';')));
}

}  // namespace

void check_device(DeviceChoice choice) {
  if (choice != DeviceChoice::kCuda) return;
  cuda::open_module();
  throw DeviceError(
      fmt::format("[model] device is cuda, but {}; use device cpu or auto", kNoCudaPath));
}

std::optional<std::string> device_notice(DeviceChoice choice) {
  if (choice != DeviceChoice::kAuto) return std::nullopt;
  const auto obstacle = cuda::module_obstacle();
  return "device: the CPU, because " + (obstacle ? without_frame(*obstacle) : kNoCudaPath);
}

}  // namespace qlora::model
