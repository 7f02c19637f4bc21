#pragma once

#include <string_view>

#include "io/hf_config.h"

namespace qlora::io {

// Checks that reading a config.json needs before the whole struct is there; validate() makes all of
// them. All throw FormatError.

/// Sizes by which others are divided or lists are made long.
void check_sizes_of_blocks(const HfConfig& config, std::string_view where);
/// Without a head_dim of its own the width has to be whole heads.
void check_head_division(const HfConfig& config, bool has_head_dim, std::string_view where);
void check_positions(const HfConfig& config, std::string_view where);

}  // namespace qlora::io
