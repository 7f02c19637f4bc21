#include <CLI/App.hpp>
#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cli/command.h"
#include "cli/model_arguments.h"
#include "cli/output.h"
#include "cli/run_check.h"
#include "configs/run_config.h"
#include "core/json_file.h"
#include "core/log_sinks.h"
#include "exporter/legality.h"
#include "exporter/shard_writer.h"

namespace qlora::cli {
namespace {

constexpr const char* kExamples = R"(Examples:
  qlora config explain lora.r
  qlora config validate configs/smollm2-quickstart.json --set lora.r=8
  qlora config schema > qlora.schema.json
  qlora config docs > docs/config.md
)";

constexpr const char* kValidateNotes = R"(
Keys and values, the run directory, the device, the model's headers, tokenizer and chat template, the
data, the linears that get adapters: what train refuses before it loads the model. Nothing is written.
A file with section export alone, as for qlora export --config, is checked by itself.
)";

void add_explain(CLI::App& config, Action& action) {
  struct Arguments {
    std::string key;
    bool json = false;
  };
  auto arguments = std::make_shared<Arguments>();
  CLI::App& command = *config.add_subcommand("explain", "Say what a key or a section means.");
  command.add_option("KEY", arguments->key, "e.g. lora.r; all keys where left out")
      ->check(not_empty());
  add_json_option(command, arguments->json);
  command.callback([arguments, &action] {
    action = [arguments] {
      arguments->json ? print_json(configs::explain_key_json(arguments->key))
                      : print(configs::explain_key(arguments->key));
      return 0;
    };
  });
}

struct ValidateArguments {
  std::string file;
  std::vector<std::string> overrides;
  bool json = false;
};

/// Keeps what is told, for --json.
class KeptNotices final : public RunLog {
 public:
  explicit KeptNotices(RunLog& log) : log_(log) {}
  void notice(const std::string& text) override {
    log_.notice(text);
    kept_.push_back(text);
  }
  void warn(const std::string& text) override {
    log_.warn(text);
    kept_.push_back(text);
  }
  void live(const std::string& text) override { log_.live(text); }
  void event(const std::string&, const nlohmann::json&) override {}

  const std::vector<std::string>& kept() const { return kept_; }

 private:
  RunLog& log_;
  std::vector<std::string> kept_;
};

/// A file that says nothing but section export: it is read over the configuration of a run, and
/// names neither model nor data. Nothing for any other.
std::optional<exporter::ExportOptions> read_export_alone(const ValidateArguments& arguments,
                                                         RunLog& log) {
  configs::RunConfig config;
  ReadNotes notes = read_fields(read_json_file(arguments.file), config, arguments.file);
  for (const std::string& assignment : arguments.overrides) {
    notes.merge(override_field(config, assignment));
  }
  const bool is_alone = !notes.given.empty() &&
                        std::all_of(notes.given.begin(), notes.given.end(), [](const auto& key) {
                          return key == "export" || key.starts_with("export.");
                        });
  if (!is_alone) return std::nullopt;
  for (const std::string& notice : notes.notices) log.notice(notice);
  return config.exporting;
}

void check_export_alone(const exporter::ExportOptions& options) {
  const exporter::ResolvedGrid grid = exporter::resolve_grid(options.grid);
  exporter::check_column_order(grid, options.gptq.desc_act);
  exporter::parse_bytes(options.max_shard_size);
}

int validate(const ValidateArguments& arguments) {
  TerminalLog terminal(stderr);
  KeptNotices log(terminal);
  Json facts = {{"file", arguments.file}, {"valid", true}};
  std::string verdict = arguments.file + " is valid";
  if (const auto exporting = read_export_alone(arguments, log)) {
    check_export_alone(*exporting);
    verdict += ": section export alone, for qlora export --config";
    facts["config"] = {{"export", write_fields(*exporting)}};
  } else {
    const auto loaded = configs::load_run_config(arguments.file, arguments.overrides);
    for (const std::string& notice : loaded.notices) log.notice(notice);
    facts["plan"] = check_run(loaded.config, log).plan.facts;
    facts["config"] = write_fields(loaded.config);
  }
  facts["notices"] = log.kept();
  arguments.json ? print_json(facts) : print(verdict + "\n");
  return 0;
}

void add_validate(CLI::App& config, Action& action) {
  auto arguments = std::make_shared<ValidateArguments>();
  CLI::App& command =
      *config.add_subcommand("validate", "Check a configuration as train would, and run nothing.");
  command.footer(kValidateNotes);
  command.add_option("FILE", arguments->file)->check(not_empty())->required();
  add_set_option(command, arguments->overrides);
  add_json_option(command, arguments->json);
  command.callback([arguments, &action] { action = [arguments] { return validate(*arguments); }; });
}

void add_schema(CLI::App& config, Action& action) {
  CLI::App& command = *config.add_subcommand("schema", "Print the JSON Schema, for editors.");
  command.add_flag("--json")->description("the schema is JSON with it and without");
  command.callback([&action] {
    action = [] {
      print_json(configs::config_schema());
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
  add_schema(config, action);
  config.add_subcommand("docs", "Print docs/config.md.")->callback([&action] {
    action = [] {
      print(configs::config_page());
      return 0;
    };
  });
}

}  // namespace qlora::cli
