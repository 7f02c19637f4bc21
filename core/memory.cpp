#include "core/memory.h"

#include <sys/statvfs.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <optional>
#include <sstream>
#include <string>

namespace qlora {
namespace {

constexpr uint64_t kUnknown = std::numeric_limits<uint64_t>::max();

// "VmRSS:   1234 kB" in bytes.
std::optional<uint64_t> kilobyte_line(const char* file, const std::string& name) {
  std::ifstream lines(file);
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with(name + ":")) continue;
    std::istringstream rest(line.substr(name.size() + 1));
    uint64_t kilobytes = 0;
    if (rest >> kilobytes) return kilobytes << 10;
  }
  return std::nullopt;
}

std::optional<uint64_t> number_in(const std::string& file) {
  std::ifstream stream(file);
  uint64_t value = 0;
  if (stream >> value) return value;
  return std::nullopt;  // no such file, or "max"
}

// What the control group (version 2, then 1) leaves of its limit. Page cache is given back on
// demand, so that it counts as free.
std::optional<uint64_t> control_group_room() {
  const std::string v2 = "/sys/fs/cgroup/", v1 = "/sys/fs/cgroup/memory/";
  const bool is_v2 = std::filesystem::exists(v2 + "memory.max");
  const std::string folder = is_v2 ? v2 : v1;
  const auto limit = number_in(folder + (is_v2 ? "memory.max" : "memory.limit_in_bytes"));
  const auto used = number_in(folder + (is_v2 ? "memory.current" : "memory.usage_in_bytes"));
  if (!limit || !used) return std::nullopt;
  uint64_t cache = 0;
  std::ifstream statistics(folder + "memory.stat");
  std::string name;
  for (uint64_t value = 0; statistics >> name >> value;) {
    if (name == (is_v2 ? "inactive_file" : "total_inactive_file")) cache = value;
  }
  const uint64_t held = *used > cache ? *used - cache : 0;
  return *limit > held ? *limit - held : 0;
}

}  // namespace

uint64_t current_rss_bytes() {
  return kilobyte_line("/proc/self/status", "VmRSS").value_or(0);
}

uint64_t peak_rss_bytes() {
  return kilobyte_line("/proc/self/status", "VmHWM").value_or(0);
}

bool reset_peak_rss() {
  std::ofstream file("/proc/self/clear_refs");
  file << "5";  // proc(5): resets VmHWM
  file.close();
  return !file.fail();
}

uint64_t available_memory_bytes() {
  const uint64_t machine = kilobyte_line("/proc/meminfo", "MemAvailable").value_or(kUnknown);
  return std::min(machine, control_group_room().value_or(kUnknown));
}

uint64_t available_disk_bytes(const std::filesystem::path& path) {
  struct statvfs disk = {};
  std::filesystem::path existing = std::filesystem::absolute(path);
  while (statvfs(existing.c_str(), &disk) != 0) {
    if (!existing.has_relative_path()) return kUnknown;
    existing = existing.parent_path();
  }
  return static_cast<uint64_t>(disk.f_bavail) * disk.f_frsize;
}

}  // namespace qlora
