#include "cli/perplexity_input.h"

#include <memory>
#include <vector>

#include "cli/token_input.h"
#include "core/error.h"
#include "data/dataset.h"
#include "data/example_builder.h"
#include "data/prompt_template.h"
#include "data/tokenizer.h"
#include "io/atomic_file.h"
#include "io/checkpoint.h"

namespace qlora::cli {
namespace {

constexpr int64_t kPerTextLimit = 100;
constexpr int64_t kPerTextMaxLength = 1024;

constexpr int64_t kSeqLen = 512;

/// What is measured, and so which options are read.
enum class Measure { kTokens, kStream, kTexts, kExamples };

const char* measure_text(Measure measure) {
  switch (measure) {
    case Measure::kTokens:
      return "rows of ids are scored as they are";
    case Measure::kStream:
      return "plain text is scored as one stream in windows";
    case Measure::kTexts:
      return "--per-text scores each text on its own";
    case Measure::kExamples:
      break;
  }
  return "rows are scored as training does";
}

/// Refuses options that would change nothing.
void check_read(const PerplexityInput& input, Measure measure) {
  const bool is_stream = measure == Measure::kStream, is_rows = !input.dataset_name.empty();
  const bool is_texts = measure == Measure::kTexts, is_examples = measure == Measure::kExamples;
  constexpr const char* kStreams = "--text, or --dataset-name with rows of plain text";
  const struct {
    const char* name;
    bool is_given, is_read;
    const char* goes_with;
  } options[] = {
      {"--seq-len", input.seq_len.has_value(), is_stream, kStreams},
      {"--stride", input.stride.has_value(), is_stream, kStreams},
      {"--max-length", input.max_length.has_value(), is_texts || is_examples,
       "--per-text, or --dataset-name with other rows than plain text (or --rows)"},
      {"--limit", input.limit.has_value(), is_texts || is_rows, "--per-text or --dataset-name"},
      {"--template", !input.prompt_template.empty(), is_rows, "--dataset-name"},
      {"--loss-on", !input.loss_on.empty(), is_examples,
       "--dataset-name with other rows than plain text (or --rows)"}};
  for (const auto& option : options) {
    QLORA_CHECK(!option.is_given || option.is_read, ConfigError,
                "[usage] {} is not read here: {}; it goes with {}", option.name,
                measure_text(measure), option.goes_with);
  }
}

void check_options(const PerplexityInput& input) {
  const int sources = !input.text.empty() + !input.dataset_name.empty() + !input.tokens.empty();
  QLORA_CHECK(sources == 1, ConfigError,
              "[usage] {} inputs given, exactly one of --text, --dataset-name and --tokens is "
              "needed",
              sources);
  QLORA_CHECK(input.tokens.empty() || (!input.per_text && !input.rows && !input.limit), ConfigError,
              "[usage] --tokens scores each row of ids on its own; --per-text, --rows and --limit "
              "do not go with it (--blocks limits the rows)");
  QLORA_CHECK(input.blocks >= 0, ConfigError, "[usage] --blocks is {}, has to be 0 (all) or above",
              input.blocks);
  QLORA_CHECK(input.blocks == 0 || !input.tokens.empty(), ConfigError,
              "[usage] --blocks goes with --tokens; for texts use --limit");
  QLORA_CHECK(!input.rows || (!input.dataset_name.empty() && !input.per_text), ConfigError,
              "[usage] --rows goes with --dataset-name, and not with --per-text");
  QLORA_CHECK(input.limit.value_or(0) >= 0, ConfigError,
              "[usage] --limit is {}, has to be 0 (all) or above", *input.limit);
}

std::vector<std::string> split_lines(const std::string& text) {
  std::vector<std::string> lines;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    std::string line = text.substr(begin, end - begin);
    if (!line.empty() && line.back() == '\r') line.pop_back();
    lines.push_back(std::move(line));
    begin = end + 1;
  }
  return lines;
}

template <class T>
void keep_first(std::vector<T>& items, int64_t limit) {
  if (limit > 0 && limit < static_cast<int64_t>(items.size())) items.resize(limit);
}

/// Texts, and how messages name each of them.
struct NamedTexts {
  std::vector<std::string> texts;
  std::vector<std::string> names;
};

NamedTexts lines_of(const std::string& file) {
  NamedTexts lines{.texts = split_lines(io::read_file(file)), .names = {}};
  for (size_t i = 1; i <= lines.texts.size(); ++i) {
    lines.names.push_back(fmt::format("{}:{}", file, i));
  }
  return lines;
}

eval::Protocol per_text(NamedTexts lines, const PerplexityInput& input,
                        const data::Tokenizer& tokenizer, bool spells_special) {
  keep_first(lines.texts, input.limit.value_or(kPerTextLimit));
  std::vector<std::vector<int32_t>> ids;
  for (size_t i = 0; i < lines.texts.size(); ++i) {
    ids.push_back(spells_special ? tokenizer.encode(lines.texts[i], {.add_special = false})
                                 : encode_text(lines.texts[i], tokenizer, lines.names[i]));
  }
  return eval::per_text_protocol(ids, input.max_length.value_or(kPerTextMaxLength));
}

eval::Protocol stream(const std::vector<std::string>& texts, const PerplexityInput& input,
                      const data::Tokenizer& tokenizer, const std::string& where) {
  const int64_t seq_len = input.seq_len.value_or(kSeqLen);
  return joined_protocol(texts, seq_len, input.stride.value_or(seq_len), tokenizer, where);
}

data::ExampleOptions example_options(const PerplexityInput& input, const data::DataOptions& data) {
  data::ExampleOptions options = data.example;
  if (input.max_length) options.max_length = *input.max_length;
  if (!input.prompt_template.empty()) {
    override_field(options, "prompt_template=" + input.prompt_template);
  }
  if (!input.loss_on.empty()) override_field(options, "loss_on=" + input.loss_on);
  return options;
}

eval::Protocol from_dataset(const PerplexityInput& input, const configs::RunConfig& config,
                            const data::Tokenizer& tokenizer, RunLog& log) {
  data::Dataset set = data::load_dataset(input.dataset_name, config.data.dataset);
  const bool is_stream = set.form == data::RowForm::kText && !input.rows && !input.per_text;
  check_read(input, input.per_text ? Measure::kTexts
                    : is_stream    ? Measure::kStream
                                   : Measure::kExamples);
  const data::ExampleOptions options = example_options(input, config.data);
  if (input.per_text || is_stream) {
    NamedTexts rows;
    const data::RowRenderer renderer(set.form, options, tokenizer, set.name);
    for (const data::Record& record : set.records) {
      rows.texts.push_back(renderer.text(record));
      rows.names.push_back(renderer.where(record));
    }
    if (input.per_text) return per_text(std::move(rows), input, tokenizer, renderer.is_chat());
    keep_first(rows.texts, input.limit.value_or(0));
    return stream(rows.texts, input, tokenizer, set.name);
  }
  keep_first(set.records, input.limit.value_or(0));
  const data::ExampleSet examples = data::build_examples(set, options, tokenizer);
  if (examples.counts.truncated > 0) {
    log.notice(fmt::format("{} of {} rows were cut to {} tokens", examples.counts.truncated,
                           examples.counts.rows, options.max_length));
  }
  return eval::example_protocol(examples, options);
}

eval::Protocol from_tokens(const PerplexityInput& input, const std::string& model_path) {
  const int64_t vocab_size = io::Checkpoint(model_path).config().vocab_size;
  return eval::block_protocol(read_token_argument("--tokens", input.tokens, vocab_size),
                              input.blocks);
}

}  // namespace

eval::Protocol make_protocol(const PerplexityInput& input, const configs::RunConfig& config,
                             RunLog& log) {
  check_options(input);
  if (input.dataset_name.empty()) {
    check_read(input, !input.tokens.empty() ? Measure::kTokens
                      : input.per_text      ? Measure::kTexts
                                            : Measure::kStream);
  }
  if (!input.tokens.empty()) return from_tokens(input, config.model_name_or_path);
  const auto tokenizer = data::load_tokenizer(config.model_name_or_path);
  if (!input.dataset_name.empty()) return from_dataset(input, config, *tokenizer, log);
  return input.per_text ? per_text(lines_of(input.text), input, *tokenizer, false)
                        : stream({io::read_file(input.text)}, input, *tokenizer, input.text);
}

}  // namespace qlora::cli
