#include "cli/inspect_data.h"

#include <algorithm>
#include <span>

#include "cli/inspect_files.h"
#include "cli/output.h"
#include "core/error.h"
#include "data/example_builder.h"
#include "data/tokenizer.h"

namespace qlora::cli {
namespace {

/// Stretches of equal mask, decoded one by one: the text with the borders of the loss.
Json runs_of(const data::Example& example, const data::Tokenizer& tokenizer) {
  Json runs = Json::array();
  const std::span<const int32_t> tokens(example.tokens);
  for (size_t begin = 0; begin < tokens.size();) {
    size_t end = begin + 1;
    while (end < tokens.size() && (example.learn[end] != 0) == (example.learn[begin] != 0)) ++end;
    runs.push_back({{"learnt", example.learn[begin] != 0},
                    {"text", tokenizer.decode(tokens.subspan(begin, end - begin), true)}});
    begin = end;
  }
  return runs;
}

Json example_facts(const data::Example& example, const data::Tokenizer& tokenizer) {
  Json pieces = Json::array();
  for (const int32_t id : example.tokens) pieces.push_back(tokenizer.id_to_piece(id));
  return {{"tokens", example.tokens},
          {"pieces", pieces},
          {"learnt", example.learn},
          {"target_tokens", example.target_tokens()},
          {"text", runs_of(example, tokenizer)}};
}

Json set_facts(const data::ExampleSet& set) {
  return {{"name", set.name},
          {"rows", set.counts.rows},
          {"examples", set.size()},
          {"tokens", set.tokens()},
          {"target_tokens", set.target_tokens()},
          {"longer_than_max_length", set.counts.overlong},
          {"truncated", set.counts.truncated},
          {"dropped", set.counts.dropped_overlong + set.counts.dropped_no_target}};
}

}  // namespace

Json inspect_data(const configs::RunConfig& config, int64_t rows, RunLog& log) {
  const auto tokenizer = data::load_tokenizer(config.model_name_or_path);
  const data::TrainingData loaded =
      data::load_training_data(config.data, *tokenizer, config.training.seed, log);
  Json facts = {{"kind", "training data"},
                {"tokenizer", tokenizer->kind()},
                {"max_length", config.data.example.max_length},
                {"train", set_facts(loaded.train)}};
  if (loaded.eval) facts["eval"] = set_facts(*loaded.eval);
  facts["samples"] = Json::array();
  for (int64_t i = 0; i < std::min(rows, loaded.train.size()); ++i) {
    facts["samples"].push_back(example_facts(loaded.train.examples[i], *tokenizer));
  }
  return facts;
}

std::string data_text(const Json& facts, Colour colour) {
  const auto mark = [colour](const std::string& text, bool learnt, LineBreaks breaks) {
    const std::string safe = terminal_safe(text, breaks);
    if (colour == Colour::kOn)
      return fmt::format("{}{}\x1b[0m", learnt ? "\x1b[32m" : "\x1b[2m", safe);
    return learnt ? fmt::format("«{}»", safe) : safe;
  };
  Json summary = facts;
  summary.erase("samples");
  std::string text = facts_text(summary);
  text += colour == Colour::kOn ? "green: learnt\n" : "in «»: learnt\n";
  int64_t number = 0;
  for (const Json& sample : facts["samples"]) {
    text += fmt::format("\nexample {}: {} tokens, {} learnt\n", ++number, sample["tokens"].size(),
                        sample["target_tokens"].get<int64_t>());
    for (const Json& run : sample["text"]) {
      text += mark(run["text"].get<std::string>(), run["learnt"].get<bool>(), LineBreaks::kKeep);
    }
    text += "\npieces:";
    for (size_t t = 0; t < sample["pieces"].size(); ++t) {
      text += ' ';
      text += mark(sample["pieces"][t].get<std::string>(), sample["learnt"][t] != 0,
                   LineBreaks::kReplace);
    }
    text += '\n';
  }
  return text;
}

}  // namespace qlora::cli
