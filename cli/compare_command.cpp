#include <CLI/App.hpp>
#include <memory>
#include <string>

#include "cli/command.h"
#include "cli/output.h"
#include "exporter/compare.h"

namespace qlora::cli {
namespace {

constexpr const char* kExamples = R"(Examples:
  qlora compare models/smollm2-135m-hf runs/out-awq-4bit
  qlora compare base.gguf quantized.gguf --json

Counts bytes on disk: all files of a folder, and the tensors by what they are for. GB is 1e9 bytes,
GiB is 2^30. Of the weights, only the headers are read.
)";

struct CompareArguments {
  std::string original, quantized;
  bool json = false;
};

int compare(const CompareArguments& arguments) {
  const exporter::SizeComparison comparison =
      exporter::compare_model_sizes(arguments.original, arguments.quantized);
  if (arguments.json) {
    print_json(exporter::to_json(comparison));
  } else {
    print(terminal_safe(exporter::comparison_text(comparison), LineBreaks::kKeep));
  }
  return 0;
}

}  // namespace

void add_compare(CLI::App& program, Action& action) {
  auto arguments = std::make_shared<CompareArguments>();
  CLI::App* command = program.add_subcommand("compare", "Compare what two models take on disk.");
  command->footer(kExamples);
  command->add_option("original", arguments->original, "Folder, GGUF or safetensors file")
      ->check(not_empty())
      ->required();
  command->add_option("quantized", arguments->quantized, "The same of the smaller model")
      ->check(not_empty())
      ->required();
  command->add_flag("--json", arguments->json, "Print one JSON object");
  command->callback([arguments, &action] { action = [arguments] { return compare(*arguments); }; });
}

}  // namespace qlora::cli
