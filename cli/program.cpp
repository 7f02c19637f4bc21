#include "cli/program.h"

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <algorithm>
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "cli/command.h"
#include "cli/memory_report.h"
#include "cli/output.h"
#include "core/error.h"
#include "core/nearest_name.h"
#include "core/out_of_memory.h"

namespace qlora::cli {
namespace {

constexpr const char* kExamples = R"(Examples:
  qlora train configs/smollm2-quickstart.json --set learning_rate=1e-4
  qlora export --run runs/out --output-dir out-awq
  qlora perplexity --model-path models/smollm2-135m --adapter runs/out --load-in-4bit --text FILE
  qlora generate --model-path models/smollm2-135m --prompt "The capital of France is"
  qlora inspect runs/out
  qlora compare models/smollm2-135m out-awq
  qlora plan configs/smollm2-quickstart.json --device-memory 8GB
  qlora config explain lora.r

qlora SUBCOMMAND --help says more. Exit codes: 0 done, 1 a bug, 2 refused with one line that says
why, 3 an export that lost more than was allowed, 129, 130 and 143 stopped by a closed terminal
(SIGHUP), Ctrl-C and SIGTERM.
)";

void print_error(const std::string& text) {
  std::fputs(("error: " + terminal_safe(text, LineBreaks::kReplace) + "\n").c_str(), stderr);
}

/// The subcommand that was given, or the program.
const CLI::App* chosen_command(const CLI::App* program) {
  const auto chosen = program->get_subcommands();
  return chosen.empty() ? program : chosen_command(chosen.front());
}

std::vector<std::string> known_names(const CLI::App& command) {
  std::vector<std::string> names;
  for (const CLI::App* sub : command.get_subcommands([](const CLI::App*) { return true; })) {
    names.push_back(sub->get_name());
  }
  for (const CLI::Option* option : command.get_options()) {
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  }
  return names;
}

/// "qlora train": how the command is called.
std::string full_name(const CLI::App& command) {
  const CLI::App* parent = command.get_parent();
  return parent == nullptr ? command.get_name() : full_name(*parent) + " " + command.get_name();
}

/// What to say of a word that the command does not take where it stands.
std::string unknown_word(const CLI::App& command, const std::string& word) {
  const std::vector<std::string> names = known_names(command);
  const std::string name = full_name(command);
  if (std::count(names.begin(), names.end(), word) > 0) {
    return fmt::format("{} is an option of {} and has to stand behind it: {} ... {}", word, name,
                       name, word);
  }
  const auto nearest = nearest_name(word, names);
  return fmt::format("{} is not known to {}{}", word, name,
                     nearest ? fmt::format("; did you mean {}?", *nearest) : "");
}

/// One line for a line that was not understood, with the nearest known word.
std::string usage_error(const CLI::App& program, const CLI::ParseError& error) {
  const CLI::App& command = *chosen_command(&program);
  const std::vector<std::string> unknown = program.remaining(true);
  std::string what = error.what();
  if (!unknown.empty()) {  // also where a subcommand is missing: it is the word that was not known
    what = unknown_word(command, unknown.front().substr(0, unknown.front().find('=')));
  }
  return fmt::format("[usage] {}; see {} --help", what, full_name(command));
}

int parse_and_act(CLI::App& program, int argc, const char* const* argv, const Action& action) {
  try {
    program.parse(argc, argv);
  } catch (const CLI::Success& request) {  // --help, --version
    const int code = program.exit(request);
    flush_stdout();
    return code;
  } catch (const CLI::ParseError& error) {
    print_error(usage_error(program, error));
    return kExitRefused;
  }
  return action();
}

}  // namespace

int run(int argc, const char* const* argv) {
  try {
    CLI::App program("QLoRA fine-tuning of a language model from one config, in one process.");
    program.name("qlora");
    program.footer(kExamples);
    program.set_version_flag("--version", std::string("qlora ") + QLORA_VERSION);
    program.require_subcommand(1);
    Action action;
    add_train(program, action);
    add_export(program, action);
    add_merge(program, action);
    add_perplexity(program, action);
    add_generate(program, action);
    add_inspect(program, action);
    add_compare(program, action);
    add_plan(program, action);
    add_config(program, action);
    return parse_and_act(program, argc, argv, action);
  } catch (const Error& error) {
    print_error(error.what());
    return kExitRefused;
  } catch (const std::exception& error) {
    if (const auto problem = as_out_of_memory(error)) {
      print_error(out_of_memory_text(*problem, "its work") + "; see qlora plan --help");
      return kExitRefused;
    }
    print_error(fmt::format("[internal] {}; this is a bug, please report it", error.what()));
    return kExitBug;
  }
}

}  // namespace qlora::cli
