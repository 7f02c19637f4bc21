#include "data/example_builder.h"

#include <gtest/gtest.h>

#include "core/parallel.h"
#include "data/prompt_template.h"
#include "tests/data/corpus.h"
#include "tests/data/data_files.h"

namespace qlora::data {
namespace {

using Ids = std::vector<int32_t>;

const Record kRow{.text = "Define it.", .input = "", .response = "A thing that is."};

Ids learnt(const Example& example) {
  Ids ids;
  for (size_t i = 0; i < example.tokens.size(); ++i) {
    if (example.learn[i]) ids.push_back(example.tokens[i]);
  }
  return ids;
}

Example built(const Record& record, RowForm form, const ExampleOptions& options,
              const Tokenizer& tokenizer) {
  return build_example(record, RowRenderer(form, options, tokenizer), options, tokenizer);
}

Dataset set_of(std::vector<Record> records, RowForm form = RowForm::kDolly) {
  Dataset set{form, "set.jsonl", std::move(records)};
  for (size_t i = 0; i < set.records.size(); ++i) set.records[i].line = static_cast<int64_t>(i) + 1;
  return set;
}

TEST(BuildExample, LearnsTheResponseAndEos) {
  const auto tokenizer = fixture_tokenizer("smollm");
  ASSERT_EQ(tokenizer->special().pad, tokenizer->special().eos);  // and eos is learnt all the same
  const Example example = built(kRow, RowForm::kDolly, {}, *tokenizer);
  Ids expected = tokenizer->encode(kRow.response);
  expected.push_back(*tokenizer->special().eos);
  EXPECT_EQ(learnt(example), expected);
  const Ids prompt = tokenizer->encode(RowRenderer(RowForm::kDolly, {}, *tokenizer).prompt(kRow));
  EXPECT_EQ(
      Ids(example.tokens.begin(), example.tokens.begin() + static_cast<int64_t>(prompt.size())),
      prompt);
  EXPECT_EQ(example.tokens.size(), prompt.size() + expected.size());
  EXPECT_EQ(example.target_tokens(), static_cast<int64_t>(expected.size()));
}

TEST(BuildExample, LearnsAllOfTheTextTokenisedAtOnce) {
  const auto tokenizer = fixture_tokenizer("smollm");
  const Record row{.text = "x", .response = "  starts with spaces"};
  const Example example = built(row, RowForm::kDolly, {.loss_on = LossOn::kAll}, *tokenizer);
  Ids expected = tokenizer->encode(
      "### Instruction:\nx\n\n### Input:\n\n\n### Response:\n  starts with spaces");
  expected.push_back(*tokenizer->special().eos);
  EXPECT_EQ(example.tokens, expected);
  EXPECT_EQ(learnt(example), expected);
  EXPECT_EQ(example.target_tokens(),
            static_cast<int64_t>(expected.size()) - 1);  // nothing predicts the first
}

TEST(BuildExample, PiecesDecodeToTheWholeText) {
  for (const char* name : {"smollm", "llama2", "llama3", "sp_bpe", "metaspace"}) {
    const auto tokenizer = fixture_tokenizer(name);
    for (const auto& text : test::make_random_strings(300, 8)) {
      const Record row{.text = "Say.", .response = text};
      const auto options = ExampleOptions{.append_eos = false};
      Example example = built(row, RowForm::kDolly, options, *tokenizer);
      // Specials and U+2581 have a text of their own; the Split of "metaspace" drops characters.
      const bool is_plain =
          text.find('<') == std::string::npos && text.find("\u2581") == std::string::npos;
      if (!is_plain || std::string(name) == "metaspace") continue;
      std::string whole;
      for (const Piece& piece : RowRenderer(RowForm::kDolly, {}, *tokenizer).render(row))
        whole += piece.text;
      // Behind bos a sentencepiece-like tokenizer shows the prefix space of the first word.
      const bool is_spaced = std::string(name) == "llama2" || std::string(name) == "sp_bpe";
      if (tokenizer->add_bos()) {
        whole = tokenizer->id_to_piece(*tokenizer->special().bos) + (is_spaced ? " " : "") + whole;
      }
      ASSERT_EQ(tokenizer->decode(example.tokens, true), whole) << name;
    }
  }
}

TEST(BuildExample, ChatmlEndsEveryAnswerWithEosOnce) {
  const auto tokenizer = fixture_tokenizer("smollm");
  const Record chat{
      .messages = {{"user", "Q"}, {"assistant", "A"}, {"user", "R"}, {"assistant", "B"}}};
  const Example example = built(chat, RowForm::kMessages, {}, *tokenizer);
  const int32_t eos = *tokenizer->special().eos;
  Ids expected = tokenizer->encode("A");
  expected.push_back(eos);
  for (const int32_t id : tokenizer->encode("B")) expected.push_back(id);
  expected.push_back(eos);
  EXPECT_EQ(learnt(example), expected);
  EXPECT_EQ(
      example.tokens,
      tokenizer->encode("<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n"
                        "<|im_start|>user\nR<|im_end|>\n<|im_start|>assistant\nB<|im_end|>\n"));
  // A tokenizer with another eos gets it at the end.
  const auto other = fixture_tokenizer("gpt2");
  EXPECT_EQ(built(chat, RowForm::kMessages, {}, *other).tokens.back(), *other->special().eos);
}

TEST(BuildExample, NoEndIsTaughtBehindTheUsersTurn) {
  for (const char* name : {"smollm", "gpt2"}) {  // eos closes ChatML's turns, or is another token
    const auto tokenizer = fixture_tokenizer(name);
    const Record asked{.messages = {{"user", "hello"}}};
    EXPECT_EQ(built(asked, RowForm::kMessages, {}, *tokenizer).target_tokens(), 0) << name;
    const Record open{.messages = {{"user", "Q"}, {"assistant", "A"}, {"user", "R"}}};
    Ids expected = tokenizer->encode("A<|im_end|>");
    EXPECT_EQ(learnt(built(open, RowForm::kMessages, {}, *tokenizer)), expected) << name;
    // As plain text, the end of the text is learnt as before.
    const auto options = ExampleOptions{.loss_on = LossOn::kAll};
    EXPECT_GT(built(asked, RowForm::kMessages, options, *tokenizer).target_tokens(), 0) << name;
  }
  const auto tokenizer = fixture_tokenizer("gpt2");
  const Dataset set =
      set_of({{.messages = {{"user", "hello"}}}, {.messages = {{"user", "Q"}, {"assistant", "A"}}}},
             RowForm::kMessages);
  const ExampleSet examples = build_examples(set, {}, *tokenizer);
  EXPECT_EQ(examples.size(), 1);
  EXPECT_EQ(examples.counts.dropped_no_target, 1);
}

TEST(BuildExample, ARoleThatNobodyKnowsIsRefusedWithFileAndLine) {
  const auto tokenizer = fixture_tokenizer("smollm");
  const Dataset set = set_of({{.messages = {{"user", "Q"}, {"assistant", "A"}}},
                              {.messages = {{"usr", "Q"}, {"assistant", "A"}}}},
                             RowForm::kMessages);
  const std::string message = testing::message_of<ValueError>(
      [&] { build_examples(set, {.prompt_template = PromptTemplate::kChatml}, *tokenizer); });
  EXPECT_SAYS(message, "[data] set.jsonl:2: a message has the role 'usr'");
}

TEST(BuildExample, BosComesFirstAndOnlyOnce) {
  const auto tokenizer = fixture_tokenizer("llama3");
  const int32_t bos = *tokenizer->special().bos;
  const Example example = built(kRow, RowForm::kDolly, {}, *tokenizer);
  EXPECT_EQ(example.tokens[0], bos);
  EXPECT_EQ(example.learn[0], 0);
  EXPECT_EQ(std::count(example.tokens.begin(), example.tokens.end(), bos), 1);
  EXPECT_EQ(built(kRow, RowForm::kDolly, {.loss_on = LossOn::kAll}, *tokenizer).tokens[0], bos);
  const Record doubled{.text = "<|begin_of_text|>hi", .line = 7};
  EXPECT_ERROR(ValueError, built(doubled, RowForm::kText, {}, *tokenizer),
               "line 7: the text begins with <|begin_of_text|> and the tokenizer adds it too");
}

TEST(CheckSingleBos, RefusesTheSecondOneThatTheTokenizerAdds) {
  const auto tokenizer = fixture_tokenizer("llama3");
  EXPECT_ERROR(ValueError,
               check_single_bos(tokenizer->encode("<|begin_of_text|>hi"), *tokenizer, "--prompt"),
               "[data] --prompt: the text begins with <|begin_of_text|> and the tokenizer adds it "
               "too; take it out of the text");
  for (const char* text : {"", "hi", "hi<|begin_of_text|><|begin_of_text|>"}) {
    EXPECT_NO_THROW(check_single_bos(tokenizer->encode(text), *tokenizer, "--prompt")) << text;
  }
  const Ids spelt = tokenizer->encode("<|begin_of_text|>hi", {.add_special = false});
  EXPECT_NO_THROW(check_single_bos(spelt, *tokenizer, "--prompt"));
  const auto adds_none = fixture_tokenizer("smollm");
  const Ids twice(2, *adds_none->special().bos);
  EXPECT_NO_THROW(check_single_bos(twice, *adds_none, "--prompt"));
}

TEST(BuildExample, EosWhereItIsThereOrMissing) {
  const auto tokenizer = fixture_tokenizer("smollm");
  const Record ended{.text = "hi<|im_end|>"};
  EXPECT_EQ(built(ended, RowForm::kText, {}, *tokenizer).tokens, tokenizer->encode("hi<|im_end|>"));
  const TemporaryFolder folder;
  folder.put("tokenizer.json", io::read_file(fixture("tokenizers/gpt2/tokenizer.json")));
  const auto without = load_tokenizer(folder.path());
  EXPECT_ERROR(ConfigError, built(kRow, RowForm::kDolly, {}, *without), "set append_eos to false");
  EXPECT_EQ(built(kRow, RowForm::kText, {.append_eos = false}, *without).tokens,
            without->encode(kRow.text));
}

TEST(BuildExamples, CountsAndCutsLongRows) {
  const auto tokenizer = fixture_tokenizer("smollm");
  std::string lengthy;
  for (int i = 0; i < 200; ++i) lengthy += " word";
  const Dataset set =
      set_of({kRow, {.text = "x", .response = lengthy}, {.text = lengthy, .response = "y"}});
  const ExampleSet cut = build_examples(set, {.max_length = 120}, *tokenizer);
  EXPECT_EQ(cut.counts.rows, 3);
  EXPECT_EQ(cut.counts.overlong, 2);
  EXPECT_EQ(cut.counts.truncated, 2);
  EXPECT_EQ(cut.counts.dropped_no_target, 1);  // its response lay behind the cut
  ASSERT_EQ(cut.size(), 2);
  EXPECT_EQ(cut.examples[1].tokens.size(), 120u);
  EXPECT_EQ(cut.examples[1].learn.size(), 120u);
  EXPECT_NE(cut.examples[1].tokens.back(),
            *tokenizer->special().eos);  // an unfinished text has no end
  EXPECT_EQ(cut.tokens(), 120 + static_cast<int64_t>(cut.examples[0].tokens.size()));

  const ExampleSet dropped =
      build_examples(set, {.max_length = 120, .overlong = Overlong::kDrop}, *tokenizer);
  EXPECT_EQ(dropped.size(), 1);
  EXPECT_EQ(dropped.counts.dropped_overlong, 2);
  EXPECT_EQ(dropped.counts.truncated, 0);
  EXPECT_ERROR(ValueError,
               build_examples(set, {.max_length = 120, .overlong = Overlong::kError}, *tokenizer),
               "2 of the 3 rows of set.jsonl are longer than max_length 120 (the first at line 2");
  EXPECT_ERROR(ConfigError, build_examples(set, {.max_length = 1}, *tokenizer), "max_length is 1");
}

TEST(BuildExamples, RefusesASetWithoutTargets) {
  const auto tokenizer = fixture_tokenizer("smollm");
  EXPECT_ERROR(ValueError, build_examples(set_of({kRow, kRow}), {.max_length = 5}, *tokenizer),
               "no row of set.jsonl has a token to learn within max_length 5: 2 rows, 2 too long");
  EXPECT_ERROR(
      ValueError,
      build_examples(set_of({{.text = ""}}, RowForm::kText), {.append_eos = false}, *tokenizer),
      "1 without a target");
  // One token alone has nothing before it that could predict it.
  EXPECT_ERROR(
      ValueError,
      build_examples(set_of({{.text = "a"}}, RowForm::kText), {.append_eos = false}, *tokenizer),
      "1 without a target");
}

TEST(BuildExamples, TheThreadCountChangesNothing) {
  const auto tokenizer = fixture_tokenizer("llama3");
  std::vector<Record> rows;
  for (const auto& text : test::make_random_strings(500, 12))
    rows.push_back({.text = "q", .response = text});
  const Dataset set = set_of(rows);
  const int before = thread_count();
  set_thread_count(1);
  const ExampleSet one = build_examples(set, {}, *tokenizer);
  set_thread_count(4);
  const ExampleSet four = build_examples(set, {}, *tokenizer);
  rows[40].text = rows[400].text = "<|begin_of_text|>";
  EXPECT_ERROR(ValueError, build_examples(set_of(rows, RowForm::kText), {}, *tokenizer),
               "[data] set.jsonl:41: the text begins with");
  set_thread_count(before);
  ASSERT_EQ(one.size(), four.size());
  for (int64_t i = 0; i < one.size(); ++i) {
    ASSERT_EQ(one.examples[i].tokens, four.examples[i].tokens);
    ASSERT_EQ(one.examples[i].learn, four.examples[i].learn);
  }
}

}  // namespace
}  // namespace qlora::data
