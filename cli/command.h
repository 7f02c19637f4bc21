#pragma once

#include <functional>
#include <string>

namespace CLI {
class App;
}

namespace qlora::cli {

/// What the program does once the command line is understood; returns the exit code.
using Action = std::function<int()>;

/// `option->check(not_empty())`: an empty value is what a shell makes of a variable that is not
/// set, and no choice. Numbers need it too: CLI11 reads an empty one as 0 or as not given.
std::function<std::string(const std::string&)> not_empty();

/// Each adds one subcommand, which sets `action` when it is chosen. Nothing is read or computed
/// before that.
void add_train(CLI::App& program, Action& action);
void add_export(CLI::App& program, Action& action);
void add_merge(CLI::App& program, Action& action);
void add_perplexity(CLI::App& program, Action& action);
void add_generate(CLI::App& program, Action& action);
void add_inspect(CLI::App& program, Action& action);
void add_compare(CLI::App& program, Action& action);
void add_plan(CLI::App& program, Action& action);
void add_config(CLI::App& program, Action& action);

}  // namespace qlora::cli
