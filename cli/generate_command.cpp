#include <unistd.h>

#include <CLI/App.hpp>
#include <cstdio>
#include <iostream>
#include <iterator>
#include <memory>
#include <optional>

#include "cli/command.h"
#include "cli/model_arguments.h"
#include "cli/output.h"
#include "core/error.h"
#include "core/log_sinks.h"
#include "core/memory.h"
#include "core/progress.h"
#include "data/prompt_template.h"
#include "data/tokenizer.h"
#include "eval/generate.h"
#include "io/atomic_file.h"

namespace qlora::cli {
namespace {

constexpr const char* kExamples = R"(Examples:
  qlora generate --model-path M --prompt "The capital of France is" --max-new-tokens 20
  qlora generate --adapter runs/out --load-in-4bit --template dolly --prompt "Define: lantern"
  qlora generate --model-path M --template chatml --temperature 0.7 --top-p 0.9 --seed 1

Without a prompt every line of standard input is one; answers stream to standard output.
)";

struct GenerateArguments {
  ModelArguments model;
  std::optional<std::string> prompt;
  std::string prompt_file;
  std::string context;  // the template's input block
  std::string prompt_template = "none";
  eval::GenerateOptions options;
};

data::PromptTemplate parse_template(const std::string& name) {
  data::ExampleOptions options;
  override_field(options, "prompt_template=" + name);
  QLORA_CHECK(options.prompt_template != data::PromptTemplate::kAuto, ConfigError,
              "[usage] --template auto: there is no row to tell the form by; say none, dolly, "
              "alpaca or chatml");
  return options.prompt_template;
}

/// The text that the model is given for what the user wrote.
std::string render(const GenerateArguments& arguments, const std::string& prompt) {
  const data::PromptTemplate chosen = parse_template(arguments.prompt_template);
  if (chosen == data::PromptTemplate::kNone) return prompt;
  data::Record record;
  record.text = prompt;
  record.input = arguments.context;
  const data::RowForm form =
      chosen == data::PromptTemplate::kAlpaca ? data::RowForm::kAlpaca : data::RowForm::kDolly;
  return data::render_prompt(record, form, chosen);
}

Json facts_of(const std::string& prompt, const eval::Generation& generation) {
  const double answer_seconds = generation.seconds - generation.prompt_seconds;
  const auto tokens = static_cast<double>(generation.tokens.size());
  return {{"prompt", prompt},
          {"text", generation.text},
          {"tokens", generation.tokens},
          {"prompt_tokens", generation.prompt_tokens},
          {"new_tokens", generation.tokens.size()},
          {"stop", eval::stop_reason_name(generation.stop)},
          {"prompt_seconds", generation.prompt_seconds},
          {"seconds", generation.seconds},
          {"tokens_per_second", answer_seconds > 0 ? tokens / answer_seconds : 0.0},
          {"peak_bytes", peak_rss_bytes()}};
}

class Answerer {
 public:
  Answerer(const GenerateArguments& arguments, RunLog& log)
      : arguments_(arguments),
        config_(resolve_config(arguments.model, log)),
        tokenizer_(data::load_tokenizer(config_.model_name_or_path)),
        model_(load_model(config_, arguments.model, log)),
        is_terminal_(isatty(STDOUT_FILENO) == 1) {}

  /// Answers one prompt, on stdout or as an object.
  eval::Generation answer(const std::string& prompt, bool stream) {
    const auto show = [this](std::string_view piece) {
      print(is_terminal_ ? terminal_safe(piece, LineBreaks::kKeep) : std::string(piece));
    };
    const std::vector<int32_t> ids = tokenizer_->encode(render(arguments_, prompt));
    eval::Generation generation =
        eval::generate(model_, *tokenizer_, ids, arguments_.options,
                       stream ? show : std::function<void(std::string_view)>());
    if (stream) print("\n");
    return generation;
  }
  Json facts(const std::string& prompt, const eval::Generation& generation) const {
    Json facts = facts_of(prompt, generation);
    facts.update(model_facts(model_, config_, arguments_.model));
    return facts;
  }

 private:
  const GenerateArguments& arguments_;
  configs::RunConfig config_;
  std::unique_ptr<const data::Tokenizer> tokenizer_;
  model::Decoder model_;
  bool is_terminal_;
};

void notice_speed(const eval::Generation& generation, RunLog& log) {
  const double seconds = generation.seconds - generation.prompt_seconds;
  if (generation.tokens.empty() || seconds <= 0) return;
  log.notice(fmt::format(
      "{} tokens, {} tok/s after {} for the prompt ({})", generation.tokens.size(),
      rate_text(static_cast<double>(generation.tokens.size()) / seconds),
      duration_text(generation.prompt_seconds), eval::stop_reason_name(generation.stop)));
}

void answer_lines(Answerer& answerer, RunLog& log) {
  const bool asks = isatty(STDIN_FILENO) == 1;
  std::string line;
  while ((!asks || std::fputs("> ", stderr) >= 0) && std::getline(std::cin, line)) {
    if (line.empty()) continue;
    notice_speed(answerer.answer(line, true), log);
  }
  if (asks) std::fputs("\n", stderr);
}

/// Editors and echo end a text with one, which is not meant for the model.
std::string without_last_line_break(std::string text) {
  if (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

int generate(const GenerateArguments& arguments) {
  QLORA_CHECK(!arguments.prompt || arguments.prompt_file.empty(), ConfigError,
              "[usage] --prompt and --prompt-file are both given; keep one");
  QLORA_CHECK(arguments.context.empty() || arguments.prompt_template != "none", ConfigError,
              "[usage] --context goes with --template dolly, alpaca or chatml");
  parse_template(arguments.prompt_template);
  validate_fields(arguments.options);
  std::optional<std::string> prompt = arguments.prompt;
  if (!arguments.prompt_file.empty()) {
    prompt = without_last_line_break(io::read_file(arguments.prompt_file));
  } else if (!prompt && arguments.model.json) {
    prompt = without_last_line_break({std::istreambuf_iterator<char>(std::cin), {}});
  }
  TerminalLog log(stderr);
  Answerer answerer(arguments, log);
  if (!prompt) {
    answer_lines(answerer, log);
    return 0;
  }
  const eval::Generation generation = answerer.answer(*prompt, !arguments.model.json);
  if (arguments.model.json) {
    print_json(answerer.facts(*prompt, generation));
  } else {
    notice_speed(generation, log);
  }
  return 0;
}

void add_sampling_options(CLI::App& command, eval::GenerateOptions& options) {
  command.add_option("--max-new-tokens", options.max_new_tokens, "longest answer (128)");
  command.add_option("--temperature", options.sampling.temperature,
                     "0: always the most likely token (0)");
  command.add_option("--top-k", options.sampling.top_k, "draw from the k most likely; 0: all (0)");
  command.add_option("--top-p", options.sampling.top_p,
                     "draw from the fewest tokens that hold this share (1)");
  command.add_option("--repetition-penalty", options.sampling.repetition_penalty,
                     "above 1: tokens seen before become less likely (1)");
  command.add_option("--seed", options.seed, "equal seeds give equal answers (0)");
}

}  // namespace

void add_generate(CLI::App& program, Action& action) {
  auto arguments = std::make_shared<GenerateArguments>();
  CLI::App& command =
      *program.add_subcommand("generate", "Let a model write, with an adapter or without.");
  command.footer(kExamples);
  add_model_options(command, arguments->model);
  command.add_option("--prompt,--instruction", arguments->prompt,
                     "the text to go on from, or with a template the instruction");
  command.add_option("--prompt-file", arguments->prompt_file, "the same from a file")
      ->type_name("FILE");
  command.add_option("--context,--input", arguments->context, "the template's input block");
  command.add_option("--template", arguments->prompt_template,
                     "none, dolly, alpaca or chatml (none)");
  add_sampling_options(command, arguments->options);
  command.callback([arguments, &action] { action = [arguments] { return generate(*arguments); }; });
}

}  // namespace qlora::cli
