#pragma once

#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace qlora::architecture {

struct Include {
  int line = 0;
  std::string path;     // between the quotes or brackets
  bool quoted = false;  // "…", not <…>
};

struct SourceFile {
  std::string path;    // relative, with '/'
  std::string folder;  // first component; empty for files of the root
  std::string name;    // last component
  std::vector<std::string> lines;
  std::vector<Include> includes;

  bool has_suffix(std::string_view suffix) const { return path.ends_with(suffix); }
  bool is_header() const { return has_suffix(".h") || has_suffix(".cuh"); }
  bool is_code() const { return is_header() || has_suffix(".cpp") || has_suffix(".cu"); }
};

/// The text files of a project, without build folders, virtual environments and data.
struct SourceTree {
  std::map<std::string, SourceFile> files;  // by path
  std::set<std::string> modules;            // folders of the arrow table
  /// module -> folders whose headers it may include, directly or through others; "*_options.h"
  /// among them stands for the option headers of all modules.
  std::map<std::string, std::set<std::string>> may_include;

  const SourceFile* find(const std::string& path) const {
    const auto found = files.find(path);
    return found == files.end() ? nullptr : &found->second;
  }
};

/// Reads the tree and the arrow table in docs/architecture.md.
///   throws    std::runtime_error where the page or its table is missing
SourceTree read_source_tree(const std::filesystem::path& root);

}  // namespace qlora::architecture
