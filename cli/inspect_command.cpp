#include <unistd.h>

#include <CLI/App.hpp>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "cli/command.h"
#include "cli/inspect_adapter.h"
#include "cli/inspect_data.h"
#include "cli/inspect_files.h"
#include "cli/inspect_run.h"
#include "cli/model_arguments.h"
#include "cli/output.h"
#include "core/error.h"
#include "core/log_sinks.h"

namespace qlora::cli {
namespace {

constexpr const char* kExamples = R"(Examples:
  qlora inspect models/smollm2-135m/SmolLM2-135M-Instruct.Q4_1.gguf --tensors
  qlora inspect runs/out                      a run: losses, checkpoints, speed
  qlora inspect runs/out/checkpoint-100       an adapter
  qlora inspect --data configs/run.json       what is trained on, with the loss mask
)";

struct InspectArguments {
  std::string path;
  std::string data_config;
  std::vector<std::string> overrides;
  int64_t rows = 3;
  bool tensors = false;
  bool json = false;
  std::string colour = "auto";
};

Json inspect_path(const std::filesystem::path& path, TensorList tensors, RunLog& log) {
  QLORA_CHECK(std::filesystem::exists(path), IoError, "[inspect] {} does not exist", path.string());
  if (!std::filesystem::is_directory(path)) {
    if (path.extension() == ".gguf") return inspect_gguf(path, tensors);
    QLORA_CHECK(path.extension() == ".safetensors", FormatError,
                "[inspect] {} is neither .gguf nor .safetensors nor a folder with a model, an "
                "adapter or a run",
                path.string());
    return inspect_safetensors(path, tensors);
  }
  if (is_run_directory(path)) return inspect_run(path, log);
  if (std::filesystem::exists(path / "adapter_config.json")) return inspect_adapter(path, tensors);
  if (std::filesystem::exists(path / "config.json")) return inspect_model_directory(path, tensors);
  throw FormatError(fmt::format(
      "[inspect] {} holds no config.json (a model), adapter_config.json (an adapter) or log.jsonl "
      "(a run)",
      path.string()));
}

Colour choose_colour(const std::string& choice) {
  if (choice == "always") return Colour::kOn;
  if (choice == "never") return Colour::kOff;
  QLORA_CHECK(choice == "auto", ConfigError, "[usage] --colour is {}, allowed: auto, always, never",
              choice);
  const char* no_color = std::getenv("NO_COLOR");  // no-color.org
  const bool forbidden = no_color != nullptr && *no_color != '\0';
  return isatty(STDOUT_FILENO) == 1 && !forbidden ? Colour::kOn : Colour::kOff;
}

int inspect(const InspectArguments& arguments) {
  QLORA_CHECK(arguments.path.empty() != arguments.data_config.empty(), ConfigError,
              "[usage] give either a PATH or --data CONFIG");
  QLORA_CHECK(arguments.rows >= 0, ConfigError, "[usage] --rows is {}, has to be 0 or above",
              arguments.rows);
  const Colour colour = choose_colour(arguments.colour);
  TerminalLog log(stderr);
  if (arguments.data_config.empty()) {
    const Json facts = inspect_path(arguments.path,
                                    arguments.tensors ? TensorList::kShow : TensorList::kHide, log);
    arguments.json ? print_json(facts) : print(facts_text(facts));
    return 0;
  }
  const configs::LoadedConfig loaded =
      configs::load_run_config(arguments.data_config, arguments.overrides);
  for (const std::string& notice : loaded.notices) log.notice(notice);
  const Json facts = inspect_data(loaded.config, arguments.rows, log);
  arguments.json ? print_json(facts) : print(data_text(facts, colour));
  return 0;
}

}  // namespace

void add_inspect(CLI::App& program, Action& action) {
  auto arguments = std::make_shared<InspectArguments>();
  CLI::App& command = *program.add_subcommand(
      "inspect", "Show what is in a model, an adapter, a run, a tensor file or a data set.");
  command.footer(kExamples);
  command
      .add_option("PATH", arguments->path,
                  "Hugging Face folder, .gguf, .safetensors, adapter folder or run directory")
      ->check(not_empty());
  command.add_flag("--tensors", arguments->tensors, "list every tensor");
  command.add_option("--data", arguments->data_config, "show what this configuration trains on")
      ->check(not_empty())
      ->type_name("CONFIG");
  command.add_option("--rows", arguments->rows, "with --data: examples to show (3)")
      ->check(not_empty());
  command.add_option("--colour,--color", arguments->colour, "auto, always or never (auto)")
      ->check(not_empty());
  add_set_option(command, arguments->overrides);
  add_json_option(command, arguments->json);
  command.callback([arguments, &action] { action = [arguments] { return inspect(*arguments); }; });
}

}  // namespace qlora::cli
