#pragma once

#include <filesystem>
#include <ostream>

namespace qlora::testing {

/// Adds what the emulated device has run to a file of this process in `folder`: lines of an entry,
/// its number of blocks, whether a block had less to do, threads and dynamic shared bytes of a
/// block.
void write_launch_log(const std::filesystem::path& folder);

/// Whether every .entry of this program was run, by the processes that wrote into `folder`, with at
/// least two numbers of blocks and with a ragged block. Says what is missing.
bool check_launch_log(const std::filesystem::path& folder, std::ostream& out);

}  // namespace qlora::testing
