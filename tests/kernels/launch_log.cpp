#include "tests/kernels/launch_log.h"

#include <unistd.h>

#include <cstdint>
#include <fstream>
#include <map>
#include <set>
#include <string>
#include <tuple>

#include "tests/emulation/emulated_cuda.h"

namespace qlora::testing {
namespace {

struct Seen {
  std::set<uint64_t> block_counts;
  bool is_ragged = false;
};

/// Entries whose launch is the same for every input, and why.
struct FixedLaunch {
  const char* part_of_name;
  const char* reason;
};
constexpr FixedLaunch kFixedLaunches[] = {{"divide_kernel", "one thread divides one sum"},
                                          {"finish_norm_kernel", "one thread finishes one norm"},
                                          {"fp8_one_scale_kernel", "one thread makes one scale"}};

/// Entries whose blocks all do the same: a ragged end lies inside each block, if anywhere.
constexpr FixedLaunch kAlikeBlocks[] = {
    {"rms_norm", "a block per row"},
    {"cross_entropy", "a block per row"},
    {"fp8_rows_kernel", "a block per row"},
    {"fp8_round_kernel", "a block per row"},
    {"affine_fit_kernelILi256E", "a block per group, all of one size"}};

template <size_t Count>
bool is_among(const FixedLaunch (&list)[Count], const std::string& entry) {
  for (const FixedLaunch& fixed : list) {
    if (entry.find(fixed.part_of_name) != std::string::npos) return true;
  }
  return false;
}

std::map<std::string, Seen> read_logs(const std::filesystem::path& folder) {
  std::map<std::string, Seen> all;
  for (const auto& file : std::filesystem::directory_iterator(folder)) {
    std::ifstream in(file.path());
    std::string entry;
    uint64_t blocks = 0;
    bool is_ragged = false;
    uint64_t threads = 0, shared_bytes = 0;  // for scripts/kernel_sheet.py
    while (in >> entry >> blocks >> is_ragged >> threads >> shared_bytes) {
      Seen& seen = all[entry];
      seen.block_counts.insert(blocks);
      seen.is_ragged = seen.is_ragged || is_ragged;
    }
  }
  return all;
}

}  // namespace

void write_launch_log(const std::filesystem::path& folder) {
  std::set<std::tuple<std::string, uint64_t, bool, uint64_t, size_t>> lines;
  for (const auto& o : emulation::emulated_device()->operations()) {
    if (o.kind != emulation::OperationKind::kKernel) continue;
    const uint64_t blocks = uint64_t{o.grid.x} * o.grid.y * o.grid.z;
    lines.emplace(o.name, blocks, blocks > 1 && o.least_block_bytes < o.most_block_bytes,
                  uint64_t{o.block.x} * o.block.y * o.block.z, o.shared_bytes);
  }
  if (lines.empty()) return;
  std::filesystem::create_directories(folder);
  std::ofstream out(folder / std::to_string(getpid()), std::ios::app);
  for (const auto& [entry, blocks, is_ragged, threads, shared_bytes] : lines) {
    out << entry << ' ' << blocks << ' ' << is_ragged << ' ' << threads << ' ' << shared_bytes
        << '\n';
  }
}

bool check_launch_log(const std::filesystem::path& folder, std::ostream& out) {
  const auto seen = read_logs(folder);
  const auto entries = emulation::emulated_device()->entries();
  bool is_complete = !entries.empty();
  for (const std::string& entry : entries) {
    const auto found = seen.find(entry);
    std::string missing;
    if (found == seen.end()) {
      missing = "never ran";
    } else if (!is_among(kFixedLaunches, entry)) {
      if (found->second.block_counts.size() < 2) missing = "ran with one number of blocks only";
      if (!found->second.is_ragged && !is_among(kAlikeBlocks, entry))
        missing += (missing.empty() ? "" : ", and ") + std::string("never had a ragged block");
    }
    if (missing.empty()) continue;
    out << entry << ": " << missing << '\n';
    is_complete = false;
  }
  out << entries.size() << " entries of PTX, " << seen.size() << " ran\n";
  return is_complete;
}

}  // namespace qlora::testing
