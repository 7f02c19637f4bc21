#pragma once

#include <optional>
#include <string>

#include "model/model_options.h"

namespace qlora::model {

/// Refuses device cuda where it cannot be used.
///   throws    DeviceError with the reason: no driver, no CUDA module in this build, no GPU, a GPU
///             that is too old, or that the decoder has no CUDA path
void check_device(DeviceChoice choice);

/// One line for device auto, which takes the CPU: why it does. Nothing for the other choices.
std::optional<std::string> device_notice(DeviceChoice choice);

}  // namespace qlora::model
