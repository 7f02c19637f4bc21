#pragma once

#include <torch/types.h>

#include <optional>
#include <string>

#include "model/model_options.h"

namespace qlora::model {

/// Where a model is computed, and the one line that says why where nobody chose it.
struct ChosenDevice {
  torch::Device device = torch::kCPU;
  std::optional<std::string> notice;
};

/// The device that a choice means on this machine. auto is CUDA where driver, module and a GPU that
/// is new enough are there, else the CPU. Where it is CUDA the module is open from here on, and
/// FP32 products are FP32's: TF32 and sums of half precision are off.
///   throws    DeviceError for kCuda with the reason: no driver, no CUDA module in this build, no
///             GPU, a GPU that is too old
ChosenDevice choose_device(DeviceChoice choice);

/// choose_device's error alone, before the work.
void check_device(DeviceChoice choice);

/// True where the choice would be CUDA as far as that shows without opening the module, which costs
/// libtorch_cuda's memory: what a plan is made for.
bool may_be_cuda(DeviceChoice choice);

}  // namespace qlora::model
