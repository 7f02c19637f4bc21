#include "data/example_builder.h"

#include <algorithm>
#include <exception>
#include <mutex>
#include <numeric>
#include <span>

#include "core/error.h"
#include "core/parallel.h"
#include "data/prompt_template.h"

namespace qlora::data {

int64_t Example::target_tokens() const {
  return learn.empty() ? 0 : std::accumulate(learn.begin() + 1, learn.end(), int64_t{0});
}

int64_t ExampleSet::tokens() const {
  int64_t sum = 0;
  for (const Example& example : examples) sum += static_cast<int64_t>(example.tokens.size());
  return sum;
}

int64_t ExampleSet::target_tokens() const {
  int64_t sum = 0;
  for (const Example& example : examples) sum += example.target_tokens();
  return sum;
}

namespace {

/// The last response spells eos already, as ChatML does.
bool ends_with_eos(const std::vector<Piece>& pieces, const Tokenizer& tokenizer) {
  const auto last = std::find_if(pieces.rbegin(), pieces.rend(),
                                 [](const Piece& piece) { return piece.is_response; });
  const std::string eos = tokenizer.id_to_piece(*tokenizer.special().eos);
  return last != pieces.rend() && !eos.empty() && last->text.ends_with(eos);
}

/// What is learnt ends with a special token, white space behind it apart: a chat template's own end
/// of a turn, which need not be eos.
bool ends_with_special(const Example& example, const Tokenizer& tokenizer) {
  for (size_t i = example.tokens.size(); i-- > 0;) {
    if (!example.learn[i]) continue;
    const int32_t id = example.tokens[i];
    if (tokenizer.is_special(id)) return true;
    const std::string text = tokenizer.decode(std::span(&id, 1), true);
    if (text.find_first_not_of(" \t\r\n") != std::string::npos) return false;
  }
  return false;
}

/// With loss_on all, everything is one piece that is learnt.
std::vector<Piece> joined(const std::vector<Piece>& pieces) {
  Piece whole{.text = {}, .is_response = true};
  for (const Piece& piece : pieces) whole.text += piece.text;
  return {whole};
}

/// False where nothing is expected from the model behind the last turn, or nowhere at all: eos
/// there would teach it to end where the user stops.
bool ends_with_answer(const Record& record, const std::vector<Piece>& pieces) {
  const bool has_answer = std::any_of(pieces.begin(), pieces.end(),
                                      [](const Piece& piece) { return piece.is_response; });
  if (record.messages.empty()) return has_answer;
  const std::string& last = record.messages.back().role;
  return has_answer && last != "system" && last != "user" && last != "tool";
}

void add_bos(const std::string& where, const ExampleOptions& options, const Tokenizer& tokenizer,
             Example& example) {
  example.tokens.insert(example.tokens.begin(), *tokenizer.special().bos);
  example.learn.insert(example.learn.begin(), options.loss_on == LossOn::kAll);
  check_single_bos(example.tokens, tokenizer, where);
}

}  // namespace

void check_single_bos(std::span<const int32_t> tokens, const Tokenizer& tokenizer,
                      std::string_view where) {
  if (!tokenizer.add_bos() || tokens.size() < 2) return;
  const int32_t bos = *tokenizer.special().bos;
  QLORA_CHECK(
      tokens[0] != bos || tokens[1] != bos, ValueError,
      "[data] {}: the text begins with {} and the tokenizer adds it too; take it out of the "
      "text",
      where, tokenizer.id_to_piece(bos));
}

Example build_example(const Record& record, const RowRenderer& renderer,
                      const ExampleOptions& options, const Tokenizer& tokenizer) {
  const bool learns_all = options.loss_on == LossOn::kAll;
  std::vector<Piece> pieces;
  if (learns_all && renderer.is_chat()) {  // nothing has to be told apart
    pieces.push_back({renderer.text(record), true});
  } else {
    pieces = renderer.render(record);
  }
  const SpecialIds& special = tokenizer.special();
  QLORA_CHECK(!options.append_eos || special.eos, ConfigError,
              "[data] the tokenizer has no eos token to append; set append_eos to false");
  bool appends = options.append_eos && !ends_with_eos(pieces, tokenizer) &&
                 (learns_all || ends_with_answer(record, pieces));
  if (learns_all) pieces = joined(pieces);
  Example example;
  for (const Piece& piece : pieces) {
    const auto ids =
        tokenizer.encode(piece.text, {.add_special = false, .continues = !example.tokens.empty()});
    example.tokens.insert(example.tokens.end(), ids.begin(), ids.end());
    example.learn.resize(example.tokens.size(), piece.is_response);
  }
  if (renderer.is_chat() && ends_with_special(example, tokenizer)) appends = false;
  if (tokenizer.add_bos() && !renderer.is_chat()) {
    add_bos(renderer.where(record), options, tokenizer, example);
  }
  if (appends) {
    example.tokens.push_back(*special.eos);
    example.learn.push_back(1);
  }
  return example;
}

namespace {

/// Builds all examples in parallel; of several errors the one of the first row is thrown.
std::vector<Example> build_all(const Dataset& set, const ExampleOptions& options,
                               const Tokenizer& tokenizer) {
  const RowRenderer renderer(set.form, options, tokenizer, set.name);
  std::vector<Example> examples(set.records.size());
  std::mutex mutex;
  std::exception_ptr error;
  int64_t error_row = set.size();
  parallel_for(set.size(), 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      try {
        examples[i] = build_example(set.records[i], renderer, options, tokenizer);
      } catch (...) {
        const std::lock_guard lock(mutex);
        if (i < error_row) {
          error_row = i;
          error = std::current_exception();
        }
        return;
      }
    }
  });
  if (error) std::rethrow_exception(error);
  return examples;
}

/// What the model is to answer, or with loss on all tokens to say, is nothing or white space.
bool has_empty_answer(const Record& record, RowForm form, LossOn loss_on) {
  const auto is_blank = [](const std::string& text) {
    return text.find_first_not_of(" \t\r\n") == std::string::npos;
  };
  if (form == RowForm::kText) return is_blank(record.text);
  if (loss_on == LossOn::kAll) return false;
  if (form != RowForm::kMessages) return is_blank(record.response);
  return std::any_of(record.messages.begin(), record.messages.end(), [&](const Message& message) {
    return message.role == "assistant" && message.has_text && is_blank(message.content) &&
           message.fields.is_none();
  });
}

void cut(Example& example, int64_t max_length) {
  example.tokens.resize(static_cast<size_t>(max_length));
  example.learn.resize(static_cast<size_t>(max_length));
}

}  // namespace

ExampleSet build_examples(const Dataset& set, const ExampleOptions& options,
                          const Tokenizer& tokenizer) {
  QLORA_CHECK(options.max_length >= 2, ConfigError, "[data] max_length is {}, allowed at least 2",
              options.max_length);
  std::vector<Example> built = build_all(set, options, tokenizer);
  ExampleSet out{.name = set.name, .max_length = options.max_length, .examples = {}, .counts = {}};
  out.counts.rows = set.size();
  out.counts.empty_answers = std::count_if(
      set.records.begin(), set.records.end(),
      [&](const Record& record) { return has_empty_answer(record, set.form, options.loss_on); });
  int64_t first_overlong_line = 0, longest = 0;
  for (size_t i = 0; i < built.size(); ++i) {
    const auto length = static_cast<int64_t>(built[i].tokens.size());
    longest = std::max(longest, length);
    if (length > options.max_length) {
      if (out.counts.overlong++ == 0) first_overlong_line = set.records[i].line;
      if (options.overlong == Overlong::kDrop) {
        ++out.counts.dropped_overlong;
        continue;
      }
      cut(built[i], options.max_length);
      ++out.counts.truncated;
    }
    if (built[i].target_tokens() == 0) {
      ++out.counts.dropped_no_target;
      continue;
    }
    out.examples.push_back(std::move(built[i]));
  }
  QLORA_CHECK(options.overlong != Overlong::kError || out.counts.overlong == 0, ValueError,
              "[data] {} of the {} rows of {} are longer than max_length {} (the first at line {}, "
              "the longest has {} tokens); raise max_length or set overlong to truncate or drop",
              out.counts.overlong, set.size(), set.name, options.max_length, first_overlong_line,
              longest);
  QLORA_CHECK(
      !out.examples.empty(), ValueError,
      "[data] no row of {} has a token to learn within max_length {}: {} rows, {} too long, "
      "{} without a target; a row needs a response that begins within max_length, or "
      "loss_on all",
      set.name, options.max_length, set.size(), out.counts.overlong, out.counts.dropped_no_target);
  return out;
}

}  // namespace qlora::data
