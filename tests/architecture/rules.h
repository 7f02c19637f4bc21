#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace qlora::architecture {

struct Violation {
  std::string rule;  // name of the rule, e.g. "arrows"
  std::string file;  // relative to the root of the tree
  int line = 0;      // 0: the file as a whole
  std::string what;
};

/// Reads a source tree and returns what breaks the rules of docs/architecture.md and
/// CONTRIBUTING.md.
///   root      holds the module folders, tests/, cmake/ … and docs/architecture.md, whose table of
///             arrows ("io -> core", one per line) is the one that is enforced
///   returns   sorted by file and line; empty for a clean tree
std::vector<Violation> check_tree(const std::filesystem::path& root);

std::string to_string(const Violation& violation);

}  // namespace qlora::architecture
