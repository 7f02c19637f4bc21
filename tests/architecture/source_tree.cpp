#include "tests/architecture/source_tree.h"

#include <array>
#include <fstream>
#include <sstream>
#include <stdexcept>

namespace qlora::architecture {
namespace fs = std::filesystem;
namespace {

constexpr std::string_view kBlank = " \t\r";

std::string trim(std::string_view text) {
  const auto first = text.find_first_not_of(kBlank);
  if (first == std::string_view::npos) return {};
  return std::string(text.substr(first, text.find_last_not_of(kBlank) - first + 1));
}

bool is_text(const fs::path& path) {
  static const std::set<std::string> kSuffixes = {".h",   ".inc",  ".cpp", ".cu", ".cuh", ".cmake",
                                                  ".txt", ".json", ".md",  ".sh", ".py",  ""};
  return kSuffixes.contains(path.extension().string()) && path.filename() != "LICENSE";
}

bool is_generated(const std::string& name) {
  static const std::set<std::string> kNames = {".git",     ".cache", "models",
                                               "datasets", "runs",   "__pycache__"};
  return name.starts_with("build") || name.starts_with(".venv") || kNames.contains(name);
}

void parse_include(std::string_view line, int number, std::vector<Include>& includes) {
  std::string text = trim(line);
  if (!text.starts_with('#')) return;
  text = trim(std::string_view(text).substr(1));
  if (!text.starts_with("include")) return;
  text = trim(std::string_view(text).substr(7));
  if (text.size() < 2 || (text[0] != '"' && text[0] != '<')) return;
  const auto end = text.find(text[0] == '"' ? '"' : '>', 1);
  if (end == std::string::npos) return;
  includes.push_back({number, text.substr(1, end - 1), text[0] == '"'});
}

SourceFile read_file(const fs::path& root, const fs::path& path) {
  SourceFile file;
  const fs::path relative = path.lexically_relative(root);
  file.path = relative.generic_string();
  file.folder = relative.has_parent_path() ? relative.begin()->string() : "";
  file.name = relative.filename().string();
  std::ifstream stream(path);
  for (std::string line; std::getline(stream, line);) file.lines.push_back(line);
  if (file.is_code()) {
    int number = 0;
    for (const std::string& line : file.lines) parse_include(line, ++number, file.includes);
  }
  return file;
}

/// Lines of the form "lora -> quant, io" inside a fenced block.
std::map<std::string, std::set<std::string>> read_arrows(const SourceFile& page) {
  std::map<std::string, std::set<std::string>> arrows;
  bool fenced = false;
  for (const std::string& line : page.lines) {
    if (line.starts_with("```")) fenced = !fenced;
    const auto arrow = line.find(" ->");
    if (!fenced || arrow == std::string::npos) continue;
    std::istringstream targets(line.substr(arrow + 3));
    auto& allowed = arrows[trim(line.substr(0, arrow))];
    for (std::string target; std::getline(targets, target, ',');) {
      if (!trim(target).empty()) allowed.insert(trim(target));
    }
  }
  return arrows;
}

void close_transitively(std::map<std::string, std::set<std::string>>& arrows) {
  for (bool grew = true; grew;) {
    grew = false;
    for (auto& [module, allowed] : arrows) {
      const std::set<std::string> direct = allowed;
      for (const std::string& target : direct) {
        const auto next = arrows.find(target);
        if (next == arrows.end()) continue;
        for (const std::string& further : next->second) grew |= allowed.insert(further).second;
      }
    }
  }
}

}  // namespace

SourceTree read_source_tree(const fs::path& root) {
  SourceTree tree;
  for (auto entry = fs::recursive_directory_iterator(root); entry != fs::end(entry); ++entry) {
    if (entry->is_directory()) {
      if (is_generated(entry->path().filename().string())) entry.disable_recursion_pending();
    } else if (entry->is_regular_file() && is_text(entry->path())) {
      SourceFile file = read_file(root, entry->path());
      tree.files.emplace(file.path, std::move(file));
    }
  }
  const SourceFile* page = tree.find("docs/architecture.md");
  if (page == nullptr)
    throw std::runtime_error("docs/architecture.md is missing: " + root.string());
  tree.may_include = read_arrows(*page);
  if (tree.may_include.empty()) {
    throw std::runtime_error("docs/architecture.md holds no table of arrows in a fenced block");
  }
  close_transitively(tree.may_include);
  for (auto& [module, allowed] : tree.may_include) {
    tree.modules.insert(module);
    allowed.insert(module);
  }
  return tree;
}

}  // namespace qlora::architecture
