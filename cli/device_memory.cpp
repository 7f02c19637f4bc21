#include "cli/device_memory.h"

#include <fmt/ranges.h>

#include <cctype>
#include <vector>

#include "core/error.h"

namespace qlora::cli {
namespace {

struct Gpu {
  const char* name;
  int64_t gigabytes;
};

// Cards that the CUDA module is compiled for.
constexpr Gpu kGpus[] = {
    {"RTX 3060", 12}, {"RTX 3080", 10}, {"RTX 3090", 24}, {"RTX 4060 Ti", 16}, {"RTX 4080", 16},
    {"RTX 4090", 24}, {"RTX 5080", 16}, {"RTX 5090", 32}, {"RTX A6000", 48},   {"RTX 6000 Ada", 48},
    {"A10", 24},      {"A30", 24},      {"A40", 48},      {"A100 40GB", 40},   {"A100 80GB", 80},
    {"L4", 24},       {"L40S", 48},     {"H100", 80},     {"H200", 141},       {"B200", 180},
};

std::string plain(const std::string& text) {
  std::string letters;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (std::isalnum(byte) != 0) letters += static_cast<char>(std::tolower(byte));
  }
  return letters;
}

}  // namespace

int64_t gpu_memory_bytes(const std::string& name) {
  const std::string wanted = plain(name);
  std::vector<std::string> known, found;
  int64_t gigabytes = 0;
  for (const Gpu& gpu : kGpus) {
    known.emplace_back(gpu.name);
    const std::string candidate = plain(gpu.name);
    if (candidate == wanted) return gpu.gigabytes * 1'000'000'000;
    if (wanted.empty() || candidate.find(wanted) == candidate.npos) continue;
    found.emplace_back(gpu.name);
    gigabytes = gpu.gigabytes;
  }
  QLORA_CHECK(found.size() < 2, ConfigError, "[plan] --gpu {} may be {}; say which", name,
              fmt::join(found, ", "));
  QLORA_CHECK(found.size() == 1, ConfigError,
              "[plan] --gpu {} is not known, allowed: {}; or give --device-memory 24GB", name,
              fmt::join(known, ", "));
  return gigabytes * 1'000'000'000;
}

}  // namespace qlora::cli
