#include <unistd.h>

#include <CLI/App.hpp>
#include <charconv>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <iterator>
#include <limits>
#include <memory>
#include <optional>

#include "cli/command.h"
#include "cli/model_arguments.h"
#include "cli/output.h"
#include "cli/token_input.h"
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
  qlora generate --model-path M --template chat --temperature 0.7 --top-p 0.9 --seed 1

Without a prompt every line of standard input is one; answers stream to standard output, one for
each line: an empty line gets an empty one. With --json all of standard input is one prompt.
)";

struct GenerateArguments {
  ModelArguments model;
  std::optional<std::string> prompt;
  std::string prompt_file;
  std::string context;  // the template's input block
  std::string prompt_template = "none";
  std::string system;         // the first message of a chat
  std::string chat_template;  // a Jinja file; empty: the adapter's, else the model's
  eval::GenerateOptions options;
};

data::PromptTemplate parse_template(const std::string& name) {
  data::ExampleOptions options;
  override_field(options, "prompt_template=" + name);
  QLORA_CHECK(options.prompt_template != data::PromptTemplate::kAuto, ConfigError,
              "[usage] --template auto: there is no row to tell the form by; say none, dolly, "
              "alpaca, chatml or chat");
  return options.prompt_template;
}

/// Chats are conversations; the other templates know an instruction and its input.
data::RowForm form_of(const GenerateArguments& arguments, data::PromptTemplate chosen) {
  const bool is_conversation = arguments.context.empty();
  if (chosen == data::PromptTemplate::kNone) return data::RowForm::kText;
  if (chosen == data::PromptTemplate::kAlpaca) return data::RowForm::kAlpaca;
  if (chosen == data::PromptTemplate::kDolly) return data::RowForm::kDolly;
  return is_conversation ? data::RowForm::kMessages : data::RowForm::kDolly;
}

/// The template that was saved with the adapter, where it has one, is what the adapter learnt.
data::ExampleOptions template_options(const GenerateArguments& arguments,
                                      const configs::RunConfig& config) {
  data::ExampleOptions options = config.data.example;
  options.prompt_template = parse_template(arguments.prompt_template);
  if (!arguments.chat_template.empty()) options.chat.chat_template_path = arguments.chat_template;
  const std::filesystem::path saved =
      std::filesystem::path(arguments.model.adapter) / "chat_template.jinja";
  const bool has_adapter = !arguments.model.adapter.empty();
  if (options.chat.chat_template_path.empty() && has_adapter && std::filesystem::exists(saved)) {
    options.chat.chat_template_path = saved.string();
  }
  return options;
}

/// What the user wrote, as the template knows it.
data::Record record_of(const GenerateArguments& arguments, const std::string& prompt) {
  data::Record record{.text = prompt, .input = arguments.context};
  if (!arguments.system.empty()) record.messages.push_back({"system", arguments.system});
  record.messages.push_back({"user", prompt});
  return record;
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
        options_(template_options(arguments, config_)),
        renderer_(form_of(arguments, options_.prompt_template), options_, *tokenizer_),
        model_(load_model(config_, arguments.model, log)),
        is_terminal_(isatty(STDOUT_FILENO) == 1) {}

  /// Answers one prompt, on stdout or as an object.
  eval::Generation answer(const std::string& prompt, bool stream) {
    const auto show = [this](std::string_view piece) {
      print(is_terminal_ ? terminal_safe(piece, LineBreaks::kKeep) : std::string(piece));
    };
    const std::string text = renderer_.prompt(record_of(arguments_, prompt));
    const std::vector<int32_t> ids = renderer_.is_chat()
                                         ? tokenizer_->encode(text, {.add_special = false})
                                         : encode_text(text, *tokenizer_, "the prompt");
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
  data::ExampleOptions options_;
  data::RowRenderer renderer_;
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

/// Editors and echo end a text with one, which is not meant for the model.
std::string without_last_line_break(std::string text) {
  if (text.ends_with('\n')) text.pop_back();
  if (text.ends_with('\r')) text.pop_back();
  return text;
}

void answer_lines(Answerer& answerer, RunLog& log) {
  const bool asks = isatty(STDIN_FILENO) == 1;
  std::string line;
  while ((!asks || std::fputs("> ", stderr) >= 0) && std::getline(std::cin, line)) {
    line = without_last_line_break(line);
    if (!line.empty()) {
      notice_speed(answerer.answer(line, true), log);
    } else if (!asks) {
      print("\n");  // answers stay in step with prompts
    }
  }
  if (asks) std::fputs("\n", stderr);
}

int generate(const GenerateArguments& arguments) {
  QLORA_CHECK(!arguments.prompt || arguments.prompt_file.empty(), ConfigError,
              "[usage] --prompt and --prompt-file are both given; keep one");
  QLORA_CHECK(arguments.context.empty() || arguments.prompt_template != "none", ConfigError,
              "[usage] --context goes with --template dolly, alpaca, chatml or chat");
  const data::PromptTemplate chosen = parse_template(arguments.prompt_template);
  const bool is_chat =
      chosen == data::PromptTemplate::kChat || chosen == data::PromptTemplate::kChatml;
  QLORA_CHECK(arguments.system.empty() || (is_chat && arguments.context.empty()), ConfigError,
              "[usage] --system goes with --template chat or chatml, without --context");
  QLORA_CHECK(arguments.chat_template.empty() || chosen == data::PromptTemplate::kChat, ConfigError,
              "[usage] --chat-template goes with --template chat");
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

/// CLI11 lets a number below 0 wrap around, and one too large stop at the largest.
std::string seed_problem(const std::string& text) {
  uint64_t seed = 0;
  const char* end = text.data() + text.size();
  const auto read = std::from_chars(text.data(), end, seed);
  if (read.ec == std::errc() && read.ptr == end) return "";
  return fmt::format("is {}, allowed: a whole number, 0 to {}",
                     text.empty() ? "empty" : terminal_safe(text, LineBreaks::kReplace),
                     std::numeric_limits<uint64_t>::max());
}

void add_sampling_options(CLI::App& command, eval::GenerateOptions& options) {
  command.add_option("--max-new-tokens", options.max_new_tokens, "longest answer (128)")
      ->check(not_empty());
  command
      .add_option("--temperature", options.sampling.temperature,
                  "0: always the most likely token (0)")
      ->check(not_empty());
  command.add_option("--top-k", options.sampling.top_k, "draw from the k most likely; 0: all (0)")
      ->check(not_empty());
  command
      .add_option("--top-p", options.sampling.top_p,
                  "draw from the fewest tokens that hold this share (1)")
      ->check(not_empty());
  command
      .add_option("--repetition-penalty", options.sampling.repetition_penalty,
                  "above 1: tokens seen before become less likely (1)")
      ->check(not_empty());
  command.add_option("--seed", options.seed, "equal seeds give equal answers (0)")
      ->check(seed_problem);
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
      ->check(not_empty())
      ->type_name("FILE");
  command.add_option("--context,--input", arguments->context, "the template's input block");
  command
      .add_option("--template", arguments->prompt_template,
                  "none, dolly, alpaca, chatml, or chat: the checkpoint's own (none)")
      ->check(not_empty());
  command.add_option("--system", arguments->system, "first message of a chat");
  command
      .add_option("--chat-template", arguments->chat_template,
                  "Jinja file for --template chat instead of the adapter's or the model's")
      ->check(not_empty())
      ->type_name("FILE");
  add_sampling_options(command, arguments->options);
  command.callback([arguments, &action] { action = [arguments] { return generate(*arguments); }; });
}

}  // namespace qlora::cli
