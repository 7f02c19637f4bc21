#include <CLI/App.hpp>
#include <cmath>
#include <memory>
#include <optional>

#include "cli/command.h"
#include "cli/model_arguments.h"
#include "cli/output.h"
#include "cli/perplexity_input.h"
#include "core/clock.h"
#include "core/error.h"
#include "core/log_sinks.h"
#include "core/memory.h"
#include "core/progress.h"
#include "core/text.h"
#include "eval/perplexity.h"

namespace qlora::cli {
namespace {

constexpr const char* kExamples = R"(Examples:
  qlora perplexity --model-path M --text wiki.txt --seq-len 512 --stride 256
  qlora perplexity --model-path M --adapter runs/out --load-in-4bit --dataset-name eval.jsonl
  qlora perplexity --model-path M --text lines.txt --per-text --max-length 1024 --limit 100
  qlora perplexity --model-path M --tokens tokens.safetensors:heldout --blocks 32

The protocol is printed with the number: numbers of different protocols cannot be compared.
docs/cli.md describes the protocols.
)";

struct PerplexityArguments {
  ModelArguments model;
  PerplexityInput input;
};

int perplexity(const PerplexityArguments& arguments) {
  TerminalLog log(stderr);
  const configs::RunConfig config = resolve_config(arguments.model, log);
  const eval::Protocol protocol = make_protocol(arguments.input, config, log);

  const Stopwatch watch;
  model::Decoder model = load_model(config, arguments.model, log);
  const double load_seconds = watch.seconds();
  const eval::PerplexityResult result = eval::perplexity(model, protocol, log);
  QLORA_CHECK(std::isfinite(result.nll), ValueError,
              "[perplexity] the mean negative log likelihood is {}; the compute type overflows or "
              "the weights are damaged: try --compute-dtype fp32",
              result.nll);

  Json facts = {{"perplexity", result.perplexity},
                {"nll", result.nll},
                {"tokens", result.tokens},
                {"skipped_texts", protocol.skipped},
                {"protocol", result.protocol},
                {"seconds", result.seconds},
                {"tokens_per_second", static_cast<double>(result.tokens) / result.seconds},
                {"load_seconds", load_seconds},
                {"peak_bytes", peak_rss_bytes()}};
  facts.update(model_facts(model, config, arguments.model));
  if (arguments.model.json) {
    print_json(facts);
    return 0;
  }
  print(fmt::format(
      "protocol    {}\ntokens      {}\nnll         {:.5f}\nperplexity  {:.4f}\n"
      "time        {} ({} tok/s), peak memory {}\n",
      result.protocol, count_text(result.tokens), result.nll, result.perplexity,
      duration_text(result.seconds), rate_text(static_cast<double>(result.tokens) / result.seconds),
      bytes_text(peak_rss_bytes())));
  return 0;
}

void add_input_options(CLI::App& command, PerplexityInput& input) {
  command.add_option("--text", input.text, "text file: one stream of tokens in windows")
      ->check(not_empty())
      ->type_name("FILE");
  command
      .add_option("--dataset-name", input.dataset_name,
                  ".jsonl, .json or .csv file; instruction rows are scored as training does, "
                  "plain text rows as one stream")
      ->check(not_empty())
      ->type_name("FILE");
  command.add_option("--tokens", input.tokens, "token ids [rows, L]: each row on its own")
      ->check(not_empty())
      ->type_name("FILE:TENSOR");
  command.add_option("--blocks", input.blocks, "with --tokens: the first rows only; 0: all")
      ->check(not_empty());
  command.add_option("--seq-len", input.seq_len, "tokens in a window (512)")->check(not_empty());
  command.add_option("--stride", input.stride, "tokens between windows; default: seq-len")
      ->check(not_empty());
  command.add_flag("--per-text", input.per_text,
                   "each line or row a text of its own, weighted by its predictions");
  command.add_flag("--rows", input.rows,
                   "with --dataset-name: score rows of plain text as training does");
  command
      .add_option("--max-length", input.max_length,
                  "longest text in tokens; default: 1024 with --per-text, else data.max_length")
      ->check(not_empty());
  command
      .add_option("--limit", input.limit, "first lines or rows only; 0: all (100 with --per-text)")
      ->check(not_empty());
  command
      .add_option("--template", input.prompt_template, "auto, none, dolly, alpaca, chatml or chat")
      ->check(not_empty());
  command.add_option("--loss-on", input.loss_on, "response or all")->check(not_empty());
}

}  // namespace

void add_perplexity(CLI::App& program, Action& action) {
  auto arguments = std::make_shared<PerplexityArguments>();
  CLI::App& command = *program.add_subcommand(
      "perplexity", "Measure a model, with an adapter or without, under a named protocol.");
  command.footer(kExamples);
  add_model_options(command, arguments->model);
  add_input_options(command, arguments->input);
  command.callback(
      [arguments, &action] { action = [arguments] { return perplexity(*arguments); }; });
}

}  // namespace qlora::cli
