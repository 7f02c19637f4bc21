#pragma once

#include <cstdint>

namespace qlora::cuda {

/// What paging has moved and cost so far.
struct PagingStats {
  int64_t bytes_in = 0;   // to the device
  int64_t bytes_out = 0;  // to the host
  double stall_ms = 0;    // that streams have waited for chunks on their way
};

}  // namespace qlora::cuda
