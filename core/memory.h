#pragma once

#include <cstdint>
#include <filesystem>

namespace qlora {

/// Resident memory of this process, now and at its highest. 0 where /proc is not there.
uint64_t current_rss_bytes();
uint64_t peak_rss_bytes();

/// Makes the peak start again from the current size. False where the system does not let us.
bool reset_peak_rss();

/// What this process can still take: the machine's available memory or what the container's
/// limit leaves, whichever is less. The highest number where the system does not say.
uint64_t available_memory_bytes();

/// Free space for an ordinary user where `path` is, or will be. The highest number where the
/// system does not say.
uint64_t available_disk_bytes(const std::filesystem::path& path);

}  // namespace qlora
