#include "tests/architecture/rules.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <map>

namespace qlora::architecture {
namespace {
namespace fs = std::filesystem;

using Files = std::map<std::string, std::string>;

/// A small tree that keeps every rule, plus the given files, in a folder of its own.
class TemporaryTree {
 public:
  explicit TemporaryTree(const Files& extra) {
    root_ = fs::temp_directory_path() / ("qlora_architecture_" + std::to_string(::getpid()));
    fs::remove_all(root_);
    Files files = {
        {"docs/architecture.md",
         "```\ncore -> \nio -> core\nquant -> core\nlora -> quant, io\nmodel -> lora\n"
         "trainer -> model\nconfigs -> core, *_options.h\ncli -> configs, trainer\n```\n"},
        {"README.md", "# A tree\n"},
        {"core/README.md", "# core\n"},
        {"core/error.h", "#pragma once\nnamespace qlora {\n}\n"},
        {"core/host_device.h", "#pragma once\n#if defined(__CUDACC__)\n#define QLORA_HD\n#endif\n"},
        {"io/README.md", "# io\n"},
        {"lora/README.md", "# lora\n"},
        {"quant/README.md", "# quant\n"},
        {"quant/nf4_math.h",
         "#pragma once\n#include \"core/host_device.h\"\nnamespace qlora::quant {\n}\n"},
        {"quant/nf4.h", "#pragma once\n#include <torch/types.h>\nnamespace qlora::quant {\n}\n"},
        {"model/README.md", "# model\n"},
        {"model/decoder.cpp", "#include \"core/error.h\"\n#include \"quant/nf4.h\"\n"},
        {"trainer/README.md", "# trainer\n"},
        {"trainer/train_options.h", "#pragma once\nnamespace qlora::trainer {\n}\n"},
        {"trainer/train.h", "#pragma once\nnamespace qlora::trainer {\n}\n"},
        {"configs/README.md", "# configs\n"},
        {"configs/run_config.h", "#pragma once\n#include \"trainer/train_options.h\"\n"},
        {"build/core/generated.h", "#include <torch/torch.h>\n"},
        {".venv/lib/x.h", "#include <torch/torch.h>\n"},
    };
    for (const auto& [path, text] : extra) files[path] = text;
    for (const auto& [path, text] : files) {
      fs::create_directories((root_ / path).parent_path());
      std::ofstream(root_ / path) << text;
    }
  }
  TemporaryTree(const TemporaryTree&) = delete;
  TemporaryTree& operator=(const TemporaryTree&) = delete;
  ~TemporaryTree() { fs::remove_all(root_); }
  const fs::path& root() const { return root_; }

 private:
  fs::path root_;
};

std::string all(const std::vector<Violation>& violations) {
  std::string text;
  for (const Violation& v : violations) text += to_string(v) + "\n";
  return text;
}

TEST(Architecture, ThisProjectKeepsItsRules) {
  const auto violations = check_tree(QLORA_SOURCE_DIR);
  EXPECT_TRUE(violations.empty()) << all(violations);
}

TEST(Architecture, CleanTreeHasNoViolation) {
  const TemporaryTree tree({});
  const auto violations = check_tree(tree.root());
  EXPECT_TRUE(violations.empty()) << all(violations);
}

TEST(Architecture, NamesThatEndLikeAPrintingCallPrintNothing) {
  const TemporaryTree tree(
      Files{{"quant/a.cpp", "void f() { round_inputs(1); inputs(); my_fprintf(2); }\n"}});
  const auto violations = check_tree(tree.root());
  EXPECT_TRUE(violations.empty()) << all(violations);
}

TEST(Architecture, PageWithoutTableIsRefused) {
  const TemporaryTree tree(
      Files{{"docs/architecture.md", "io -> core\n"}});  // not in a fenced block
  EXPECT_THROW(check_tree(tree.root()), std::runtime_error);
}

struct Planted {
  std::string name;
  std::string rule;
  std::string file;
  std::string text;
};

class PlantedViolation : public testing::TestWithParam<Planted> {};

TEST_P(PlantedViolation, IsFoundAndIsTheOnlyOne) {
  const Planted& planted = GetParam();
  const TemporaryTree tree(Files{{planted.file, planted.text}});
  const auto violations = check_tree(tree.root());
  ASSERT_EQ(violations.size(), 1u) << all(violations);
  EXPECT_EQ(violations[0].rule, planted.rule);
  EXPECT_EQ(violations[0].file, planted.file);
}

std::string lines(int count) {
  std::string text;
  for (int i = 0; i < count; ++i) text += "line\n";
  return text;
}

INSTANTIATE_TEST_SUITE_P(
    , PlantedViolation,
    testing::Values(
        Planted{"ArrowAgainstTheTable", "arrows", "quant/a.cpp", "#include \"model/decoder.h\"\n"},
        Planted{"ArrowToExistingFile", "arrows", "quant/a.cpp", "#include \"trainer/train.h\"\n"},
        Planted{"SkippedArrow", "arrows", "model/a.cpp", "#include \"trainer/train.h\"\n"},
        Planted{"ConfigsSeesMoreThanOptions", "arrows", "configs/a.cpp",
                "#include \"trainer/train.h\"\n"},
        Planted{"TrainerSeesConfigs", "arrows", "trainer/a.cpp",
                "#include \"configs/run_config.h\"\n"},
        Planted{"IncludeWithoutFolder", "arrows", "quant/a.cpp", "#include \"nf4.h\"\n"},
        Planted{"IncludeUpwards", "arrows", "quant/a.cpp", "#include \"../quant/nf4.h\"\n"},
        Planted{"ProjectHeaderInBrackets", "arrows", "quant/a.cpp", "  #  include <quant/nf4.h>\n"},
        Planted{"TorchInMath", "torch-free", "quant/a_math.h",
                "#pragma once\n#include <ATen/ops/add.h>\n"},
        Planted{"TorchInKernelThroughHeader", "torch-free", "quant/a_cuda.cu",
                "#include \"quant/nf4.h\"\n"},
        Planted{"TorchInOptions", "torch-free", "lora/lora_options.h",
                "#pragma once\n#include \"quant/nf4.h\"\n"},
        Planted{"TorchInPlan", "torch-free", "model/a_plan.cpp", "#include \"quant/nf4.h\"\n"},
        Planted{"TorchInIo", "torch-free", "io/gguf.cpp", "#include <c10/util/Half.h>\n"},
        Planted{"WideTorch", "narrow-includes", "model/a.cpp", "#include <torch/torch.h>\n"},
        Planted{"WideTorchInTests", "narrow-includes", "tests/model/a_test.cpp",
                "#include <ATen/ATen.h>\n"},
        Planted{"CompilerQuestion", "compiler-questions", "quant/a.h",
                "#pragma once\n#ifdef __CUDA_ARCH__\n#endif\n"},
        Planted{"CompilerQuestionElif", "compiler-questions", "quant/a.cpp",
                "#if 0\n# elif defined(__NVCC__)\n#endif\n"},
        Planted{"Macro", "macros", "quant/a.cpp", "#define SQUARE(x) ((x) * (x))\n"},
        Planted{"Printing", "printing", "quant/a.cpp", "void f() { std::cerr << 1; }\n"},
        Planted{"PrintingWithPuts", "printing", "quant/a.cpp",
                "void f() { inputs(); puts(\"\"); }\n"},
        Planted{"PrintingToAFile", "printing", "quant/a.cpp", "  std::fputs(\"\", stderr);\n"},
        Planted{"PrintingWithFmt", "printing", "model/a.cpp", "  fmt::print(\"x\");\n"},
        Planted{"NoPragmaOnce", "headers", "quant/a.h", "namespace qlora::quant {\n}\n"},
        Planted{"ForeignNamespace", "headers", "quant/a.h",
                "#pragma once\nnamespace qlora::model {\nclass Decoder;\n}\n"},
        Planted{"UnknownNamespace", "headers", "quant/a.h",
                "#pragma once\nnamespace qlora::quantum {\n}\n"},
        Planted{"MachinePath", "machine-paths", "docs/x.md", std::string("see /") + "home/me/x\n"},
        Planted{"MachinePathInScript", "machine-paths", "scripts/x.sh",
                std::string("cd \"/") + "tmp/x\"\n"},
        Planted{"OpenNote", "open-notes", "quant/a.cpp", std::string("// TO") + "DO: later\n"},
        Planted{"LongReadme", "lengths", "README.md", lines(151)},
        Planted{"LongFolderReadme", "lengths", "core/README.md", lines(16)},
        Planted{"LongBuildFile", "lengths", "CMakeLists.txt", lines(81)},
        Planted{"EmptyName", "names", "quant/nf4_utils.cpp", "\n"}),
    [](const auto& info) { return info.param.name; });

TEST(Architecture, MissingFolderReadmeIsFound) {
  const TemporaryTree tree(Files{{"io/gguf.cpp", "\n"}});
  EXPECT_TRUE(check_tree(tree.root()).empty());
  fs::remove(tree.root() / "io/README.md");
  const auto violations = check_tree(tree.root());
  ASSERT_EQ(violations.size(), 1u) << all(violations);
  EXPECT_EQ(violations[0].rule, "folder-readmes");
}

TEST(Architecture, NamesOfAnAllowedModuleMayBeDeclared) {
  const TemporaryTree tree(Files{
      {"model/a.h", "#pragma once\nnamespace qlora::quant {\nstruct X;\n}\n"},
      {"core/simd.h", "#pragma once\nnamespace qlora::simd {\n}\n"},
  });
  const auto violations = check_tree(tree.root());
  EXPECT_TRUE(violations.empty()) << all(violations);
}

TEST(Architecture, LongestAllowedTextsPass) {
  const TemporaryTree tree(Files{{"README.md", lines(150)}, {"core/README.md", lines(15)}});
  EXPECT_TRUE(check_tree(tree.root()).empty());
}

TEST(Architecture, PathsInsideOtherPathsPass) {
  const TemporaryTree tree(
      Files{{"docs/x.md", "a/tmp/b and ${root}/home/x and models.d/work/y\n"}});
  const auto violations = check_tree(tree.root());
  EXPECT_TRUE(violations.empty()) << all(violations);
}

}  // namespace
}  // namespace qlora::architecture
