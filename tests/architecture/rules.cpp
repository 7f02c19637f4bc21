#include "tests/architecture/rules.h"

#include <algorithm>
#include <array>
#include <cctype>

#include "tests/architecture/source_tree.h"

namespace qlora::architecture {
namespace {

using Violations = std::vector<Violation>;

bool contains(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

std::string first_component(std::string_view path) {
  return std::string(path.substr(0, path.find('/')));
}

bool is_torch(const Include& include) {
  return !include.quoted && (include.path.starts_with("torch/") ||
                             include.path.starts_with("ATen/") || include.path.starts_with("c10/"));
}

/// Code without its end-of-line comment. A "//" inside a string cuts too: good enough for the
/// rules.
std::string_view without_comment(std::string_view line) {
  return line.substr(0, line.find("//"));
}

bool is_directive(std::string_view line, std::string_view name) {
  const auto hash = line.find_first_not_of(" \t");
  if (hash == std::string_view::npos || line[hash] != '#') return false;
  const auto word = line.find_first_not_of(" \t", hash + 1);
  return word != std::string_view::npos && line.substr(word).starts_with(name);
}

/// Each include of a module stays inside the table of arrows and is written "folder/file.h".
void check_arrows(const SourceTree& tree, const SourceFile& file, Violations& found) {
  const auto allowed = tree.may_include.find(file.folder);
  if (allowed == tree.may_include.end() || !file.is_code()) return;
  for (const Include& include : file.includes) {
    const std::string target = first_component(include.path);
    const bool is_project = tree.modules.contains(target) && tree.find(include.path) != nullptr;
    if (!include.quoted) {
      if (is_project) {
        found.push_back({"arrows", file.path, include.line, "write \"" + include.path + "\""});
      }
      continue;
    }
    if (!is_project) {
      found.push_back({"arrows", file.path, include.line,
                       "\"" + include.path + "\" is no file of a module; write \"folder/file.h\""});
      continue;
    }
    const bool is_option_header =
        include.path.ends_with("_options.h") && allowed->second.contains("*_options.h");
    if (!allowed->second.contains(target) && !is_option_header) {
      found.push_back(
          {"arrows", file.path, include.line, file.folder + " may not include " + include.path});
    }
  }
}

/// The chain "a.h -> b.h -> <torch/types.h>" by which a file reaches torch; empty if it does not.
std::string torch_chain(const SourceTree& tree, const std::string& path,
                        std::set<std::string>& visited) {
  const SourceFile* file = tree.find(path);
  if (file == nullptr || !visited.insert(path).second) return {};
  for (const Include& include : file->includes) {
    if (is_torch(include)) return path + " -> <" + include.path + ">";
    if (!include.quoted) continue;
    const std::string rest = torch_chain(tree, include.path, visited);
    if (!rest.empty()) return path + " -> " + rest;
  }
  return {};
}

/// Arithmetic, kernels, option headers, memory plans and the torch-free modules reach no torch
/// header.
void check_torch_free(const SourceTree& tree, const SourceFile& file, Violations& found) {
  if (!tree.modules.contains(file.folder) || !file.is_code()) return;
  const bool must_be_free =
      file.folder == "io" || file.folder == "data" || file.folder == "configs" ||
      (file.folder == "core" && file.is_header() && file.name != "device.h") ||
      (file.folder == "model" && contains(file.name, "plan")) || file.has_suffix("_math.h") ||
      file.has_suffix("_backend.h") || file.has_suffix("_options.h") || file.has_suffix(".cu") ||
      file.has_suffix(".cuh");
  if (!must_be_free) return;
  std::set<std::string> visited;
  const std::string chain = torch_chain(tree, file.path, visited);
  if (!chain.empty()) found.push_back({"torch-free", file.path, 0, chain});
}

/// The wide torch headers cost 25 s in every file.
void check_narrow_includes(const SourceTree&, const SourceFile& file, Violations& found) {
  static const std::set<std::string> kWide = {
      "torch/torch.h",    "torch/all.h", "torch/extension.h", "torch/script.h", "ATen/ATen.h",
      "ATen/Functions.h", "torch/nn.h",  "torch/optim.h",     "torch/data.h"};
  for (const Include& include : file.includes) {
    if (kWide.contains(include.path)) {
      found.push_back(
          {"narrow-includes", file.path, include.line, "<" + include.path + "> is wide"});
    }
  }
}

/// Only core/host_device.h asks which compiler is at work.
void check_compiler_questions(const SourceTree&, const SourceFile& file, Violations& found) {
  if (!file.is_code() || file.path == "core/host_device.h") return;
  int number = 0;
  for (const std::string& line : file.lines) {
    ++number;
    if (!is_directive(line, "if") && !is_directive(line, "elif")) continue;
    if (contains(line, "__CUDA") || contains(line, "__NVCC__") || contains(line, "QLORA_CUDA")) {
      found.push_back({"compiler-questions", file.path, number, "belongs in core/host_device.h"});
    }
  }
}

/// The project has two macros; the protocols of Highway and PCRE2 need theirs.
void check_macros(const SourceTree& tree, const SourceFile& file, Violations& found) {
  if (!tree.modules.contains(file.folder) || !file.is_code()) return;
  int number = 0;
  for (const std::string& line : file.lines) {
    ++number;
    if (!is_directive(line, "define")) continue;
    const std::string name = line.substr(line.find("define") + 7);
    if (name.starts_with("QLORA_HD") || name.starts_with("QLORA_CHECK") ||
        name.starts_with("HWY_") || name.starts_with("PCRE2_CODE_UNIT_WIDTH") ||
        (file.has_suffix("-inl.h") && contains(name, "_INL_H_"))) {
      continue;
    }
    found.push_back({"macros", file.path, number, "a function or a constant instead of " + name});
  }
}

/// True where the code names `call`, not as the end of a longer name: "inputs(" is no "puts(".
bool calls(std::string_view code, std::string_view call) {
  const auto is_part_of_name = [](char c) {
    return c == '_' || std::isalnum(static_cast<unsigned char>(c)) != 0;
  };
  for (size_t at = code.find(call); at != std::string_view::npos; at = code.find(call, at + 1)) {
    if (at == 0 || !is_part_of_name(code[at - 1]) || !is_part_of_name(call.front())) return true;
  }
  return false;
}

/// Libraries speak through the RunLog that they are given.
void check_printing(const SourceTree& tree, const SourceFile& file, Violations& found) {
  if (!tree.modules.contains(file.folder) || !file.is_code()) return;
  if (file.folder == "cli" || file.name.starts_with("log_sinks")) return;
  int number = 0;
  for (const std::string& line : file.lines) {
    ++number;
    const std::string_view code = without_comment(line);
    for (const std::string_view call : {"std::cout", "std::cerr", "fmt::print(", " printf(",
                                        "std::printf(", "fprintf(", "puts(", "fputs("}) {
      if (calls(code, call)) {
        found.push_back({"printing", file.path, number, "hand the text to the RunLog"});
      }
    }
  }
}

/// Headers have `#pragma once` and open no namespace of a module that they may not include, not
/// even to declare a name.
void check_headers(const SourceTree& tree, const SourceFile& file, Violations& found) {
  if (!tree.modules.contains(file.folder) || !file.is_header()) return;
  const bool is_simd_body = file.has_suffix("-inl.h");  // Highway reads it once per target
  if (!is_simd_body &&
      std::find(file.lines.begin(), file.lines.end(), "#pragma once") == file.lines.end()) {
    found.push_back({"headers", file.path, 0, "#pragma once is missing"});
  }
  int number = 0;
  for (const std::string& line : file.lines) {
    ++number;
    constexpr std::string_view kOpening = "namespace qlora::";
    if (!line.starts_with(kOpening)) continue;
    const auto end = line.find_first_of(" :{", kOpening.size());
    const std::string opened = line.substr(kOpening.size(), end - kOpening.size());
    const bool is_allowed = tree.modules.contains(opened)
                                ? tree.may_include.at(file.folder).contains(opened)
                                : file.folder == "core";  // plain qlora, with names below it
    if (!is_allowed) {
      found.push_back({"headers", file.path, number, "opens the namespace of " + opened});
    }
  }
}

/// No path of somebody's machine, in any text file.
void check_machine_paths(const SourceTree&, const SourceFile& file, Violations& found) {
  static const std::array<std::string, 4> kRoots = {"work", "home", "root", "tmp"};
  int number = 0;
  for (const std::string& line : file.lines) {
    ++number;
    for (const std::string& name : kRoots) {
      const std::string path = "/" + name + "/";
      for (auto at = line.find(path); at != std::string::npos; at = line.find(path, at + 1)) {
        const char before = at == 0 ? ' ' : line[at - 1];
        if (std::isalnum(static_cast<unsigned char>(before)) || contains("_.-})*$", {&before, 1})) {
          continue;  // in the middle of a relative path or of an address
        }
        found.push_back({"machine-paths", file.path, number, "an absolute path under " + path});
      }
    }
  }
}

/// A note about work to be done names its issue.
void check_open_notes(const SourceTree& tree, const SourceFile& file, Violations& found) {
  const bool is_ours = tree.modules.contains(file.folder) || file.folder == "scripts" ||
                       file.folder == "cmake" || file.folder.empty();
  if (!is_ours || file.has_suffix(".md") || file.has_suffix(".json")) return;  // tests quote
  int number = 0;
  for (const std::string& line : file.lines) {
    ++number;
    for (const std::string& word : {std::string("TO") + "DO", std::string("FIX") + "ME"}) {
      const auto at = line.find(word);
      if (at == std::string::npos ||
          std::string_view(line).substr(at + word.size()).starts_with("(#"))
        continue;
      found.push_back(
          {"open-notes", file.path, number, word + " without an issue: write " + word + "(#12)"});
    }
  }
}

void check_length(const SourceFile& file, size_t most, Violations& found) {
  if (file.lines.size() > most) {
    found.push_back(
        {"lengths", file.path, 0,
         std::to_string(file.lines.size()) + " lines, at most " + std::to_string(most)});
  }
}

/// Sizes of READMEs and build files.
void check_lengths(const SourceTree& tree, const SourceFile& file, Violations& found) {
  if (file.path == "README.md") check_length(file, 150, found);
  if (file.path == "CMakeLists.txt") check_length(file, 80, found);
  if (file.name == "README.md" && tree.modules.contains(file.folder)) check_length(file, 15, found);
}

/// Names that say nothing.
void check_names(const SourceTree& tree, const SourceFile& file, Violations& found) {
  if (!tree.modules.contains(file.folder)) return;
  static const std::set<std::string> kEmptyWords = {
      "fast", "new", "v2", "util", "utils", "helper", "helpers", "manager", "common", "misc"};
  std::string word;
  for (const char c : file.name + ".") {
    if (c != '_' && c != '.') {
      word += c;
      continue;
    }
    if (kEmptyWords.contains(word)) {
      found.push_back({"names", file.path, 0, "'" + word + "' says nothing about the file"});
    }
    word.clear();
  }
}

/// Every module that has code says in a README what lives in it.
void check_folder_readmes(const SourceTree& tree, Violations& found) {
  std::set<std::string> with_code;
  for (const auto& [path, file] : tree.files) {
    if (file.is_code() && tree.modules.contains(file.folder)) with_code.insert(file.folder);
  }
  for (const std::string& module : with_code) {
    if (tree.find(module + "/README.md") == nullptr) {
      found.push_back({"folder-readmes", module + "/README.md", 0, "is missing"});
    }
  }
}

}  // namespace

std::vector<Violation> check_tree(const std::filesystem::path& root) {
  const SourceTree tree = read_source_tree(root);
  Violations found;
  for (const auto& [path, file] : tree.files) {
    for (const auto check : {check_arrows, check_torch_free, check_narrow_includes,
                             check_compiler_questions, check_macros, check_printing, check_headers,
                             check_machine_paths, check_open_notes, check_lengths, check_names}) {
      check(tree, file, found);
    }
  }
  check_folder_readmes(tree, found);
  std::stable_sort(found.begin(), found.end(), [](const Violation& a, const Violation& b) {
    return std::pair(a.file, a.line) < std::pair(b.file, b.line);
  });
  return found;
}

std::string to_string(const Violation& v) {
  return v.file + ":" + std::to_string(v.line) + ": [" + v.rule + "] " + v.what;
}

}  // namespace qlora::architecture
