#include <CLI/App.hpp>
#include <memory>
#include <string>
#include <vector>

#include "cli/command.h"
#include "cli/model_arguments.h"
#include "cli/output.h"
#include "configs/run_config.h"

namespace qlora::cli {
namespace {

constexpr const char* kExamples = R"(Examples:
  qlora config explain lora.r
  qlora config validate configs/smollm2-quickstart.json --set lora.r=8
  qlora config schema > qlora.schema.json
  qlora config docs > docs/config.md
)";

void add_explain(CLI::App& config, Action& action) {
  auto key = std::make_shared<std::string>();
  CLI::App& command = *config.add_subcommand("explain", "Say what a key or a section means.");
  command.add_option("KEY", *key, "e.g. lora.r; all keys where left out");
  command.callback([key, &action] {
    action = [key] {
      print(configs::explain_key(*key));
      return 0;
    };
  });
}

void add_validate(CLI::App& config, Action& action) {
  struct Arguments {
    std::string file;
    std::vector<std::string> overrides;
  };
  auto arguments = std::make_shared<Arguments>();
  CLI::App& command =
      *config.add_subcommand("validate", "Check a configuration as train would, and run nothing.");
  command.add_option("FILE", arguments->file)->required();
  add_set_option(command, arguments->overrides);
  command.callback([arguments, &action] {
    action = [arguments] {
      print(configs::validation_report(arguments->file, arguments->overrides));
      return 0;
    };
  });
}

}  // namespace

void add_config(CLI::App& program, Action& action) {
  CLI::App& config =
      *program.add_subcommand("config", "Explain, check and document configurations.");
  config.footer(kExamples);
  config.require_subcommand(1);
  add_explain(config, action);
  add_validate(config, action);
  config.add_subcommand("schema", "Print the JSON Schema, for editors.")->callback([&action] {
    action = [] {
      print_json(configs::config_schema());
      return 0;
    };
  });
  config.add_subcommand("docs", "Print docs/config.md.")->callback([&action] {
    action = [] {
      print(configs::config_page());
      return 0;
    };
  });
}

}  // namespace qlora::cli
