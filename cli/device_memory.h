#pragma once

#include <cstdint>
#include <string>

namespace qlora::cli {

/// A GPU by a part of its name, without regard to case, blanks and dashes: "rtx4090", "A100 80GB".
///   returns   its memory in bytes, the vendor's GB taken as 1e9: what is above that the driver has
///   throws    ConfigError with the known names, or where several match
int64_t gpu_memory_bytes(const std::string& name);

}  // namespace qlora::cli
