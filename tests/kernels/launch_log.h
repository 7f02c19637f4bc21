#pragma once

#include <filesystem>
#include <ostream>

namespace qlora::testing {

/// Adds what the emulated device has run to a file of this process in `folder`: one line per entry,
/// number of blocks, and whether the last block had less to do.
void write_launch_log(const std::filesystem::path& folder);

/// Whether every .entry of this program was run, by the processes that wrote into `folder`, with at
/// least two numbers of blocks and with a ragged block. Says what is missing.
bool check_launch_log(const std::filesystem::path& folder, std::ostream& out);

}  // namespace qlora::testing
