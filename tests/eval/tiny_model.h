#pragma once

#include <string>

#include "core/run_log.h"
#include "model/decoder.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_checkpoint.h"

namespace qlora::testing {

/// The tiny checkpoint in FP32, not quantized.
inline model::Decoder load_tiny(const std::filesystem::path& folder) {
  NullLog log;
  return model::Decoder::load({.model_path = folder.string(),
                               .compute_dtype = model::ComputeDtype::kFloat32,
                               .device = model::DeviceChoice::kCpu,
                               .load_in_4bit = false,
                               .cache_dir = ""},
                              {}, log);
}

}  // namespace qlora::testing
