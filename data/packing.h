#pragma once

#include <cstdint>
#include <vector>

namespace qlora::data {

/// Puts items into bins of a capacity: first fit, decreasing.
///   lengths   of the items, 1 to capacity
///   order     item numbers; among items of equal length the earlier one is placed first
///   returns   the items of each bin. Their count depends on the lengths alone, not on the order,
///             and is at most 11/9 of the optimum plus 6/9 (Dosa, 2007)
///   cost      n log n
std::vector<std::vector<int32_t>> pack_first_fit_decreasing(const std::vector<int64_t>& lengths,
                                                            const std::vector<int32_t>& order,
                                                            int64_t capacity);

}  // namespace qlora::data
