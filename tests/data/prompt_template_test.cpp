#include "data/prompt_template.h"

#include <gtest/gtest.h>

#include "tests/data/data_files.h"

namespace qlora::data {
namespace {

const Record kFull{.text = "Do it.", .input = "With this.", .response = "Done."};
const Record kBare{.text = "Do it.", .response = "Done."};
using Pieces = std::vector<Piece>;

RowRenderer renderer(RowForm form, PromptTemplate chosen) {
  static const auto tokenizer = fixture_tokenizer("gpt2");  // has no chat template
  return RowRenderer(form, {.prompt_template = chosen}, *tokenizer);
}
Pieces render(const Record& record, RowForm form, PromptTemplate chosen) {
  return renderer(form, chosen).render(record);
}
std::string render_prompt(const Record& record, RowForm form, PromptTemplate chosen) {
  return renderer(form, chosen).prompt(record);
}

TEST(PromptTemplate, DollyKeepsTheInputBlock) {
  EXPECT_EQ(render(kFull, RowForm::kDolly, PromptTemplate::kDolly),
            (Pieces{{"### Instruction:\nDo it.\n\n### Input:\nWith this.\n\n### Response:\n"},
                    {"Done.", true}}));
  EXPECT_EQ(
      render(kBare, RowForm::kDolly, PromptTemplate::kAuto),
      (Pieces{{"### Instruction:\nDo it.\n\n### Input:\n\n\n### Response:\n"}, {"Done.", true}}));
}

TEST(PromptTemplate, AlpacaAsPublished) {
  EXPECT_EQ(render(kFull, RowForm::kAlpaca, PromptTemplate::kAuto)[0].text,
            "Below is an instruction that describes a task, paired with an input that provides "
            "further context. Write a response that appropriately completes the request.\n\n"
            "### Instruction:\nDo it.\n\n### Input:\nWith this.\n\n### Response:\n");
  EXPECT_EQ(render(kBare, RowForm::kAlpaca, PromptTemplate::kAlpaca),
            (Pieces{{"Below is an instruction that describes a task. Write a response that "
                     "appropriately completes the request.\n\n"
                     "### Instruction:\nDo it.\n\n### Response:\n"},
                    {"Done.", true}}));
}

TEST(PromptTemplate, FormsAndTemplatesMix) {
  EXPECT_EQ(render(kBare, RowForm::kAlpaca, PromptTemplate::kDolly),
            render(kBare, RowForm::kDolly, PromptTemplate::kDolly));
  EXPECT_EQ(render(kFull, RowForm::kDolly, PromptTemplate::kNone),
            (Pieces{{"Do it.\n\nWith this.\n\n"}, {"Done.", true}}));
  EXPECT_EQ(render(kBare, RowForm::kPromptCompletion, PromptTemplate::kAuto),
            (Pieces{{"Do it."}, {"Done.", true}}));
  EXPECT_EQ(render(kBare, RowForm::kText, PromptTemplate::kAuto), (Pieces{{"Do it.", true}}));
  EXPECT_EQ(render(kFull, RowForm::kAlpaca, PromptTemplate::kChatml),
            (Pieces{{"<|im_start|>user\nDo it.\n\nWith this.<|im_end|>\n<|im_start|>assistant\n"},
                    {"Done.<|im_end|>", true},
                    {"\n"}}));
}

const Record kChat{.messages = {{"system", "S"},
                                {"user", "Q"},
                                {"assistant", "A"},
                                {"tool", "T"},
                                {"assistant", "B"},
                                {"user", "R"}}};

TEST(PromptTemplate, ChatmlLearnsEveryAssistantTurn) {
  EXPECT_EQ(render(kChat, RowForm::kMessages, PromptTemplate::kAuto),
            (Pieces{{"<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n<|im_start|>"
                     "assistant\n"},
                    {"A<|im_end|>", true},
                    {"\n<|im_start|>tool\nT<|im_end|>\n<|im_start|>assistant\n"},
                    {"B<|im_end|>", true},
                    {"\n<|im_start|>user\nR<|im_end|>\n"}}));
}

TEST(PromptTemplate, ThePromptEndsWhereTheAnswerBegins) {
  EXPECT_EQ(render_prompt(kBare, RowForm::kDolly, PromptTemplate::kAuto),
            "### Instruction:\nDo it.\n\n### Input:\n\n\n### Response:\n");
  EXPECT_EQ(render_prompt(kBare, RowForm::kText, PromptTemplate::kAuto), "Do it.");
  const std::string chat = render_prompt(kChat, RowForm::kMessages, PromptTemplate::kAuto);
  EXPECT_TRUE(chat.ends_with("R<|im_end|>\n<|im_start|>assistant\n")) << chat;
  Record answered = kChat;
  answered.messages.pop_back();
  const std::string asked = render_prompt(answered, RowForm::kMessages, PromptTemplate::kAuto);
  EXPECT_TRUE(asked.ends_with("T<|im_end|>\n<|im_start|>assistant\n")) << asked;
  EXPECT_NE(chat.find("A<|im_end|>"), std::string::npos);
  const Record question{.messages = {{"user", "Q"}}};
  EXPECT_EQ(render_prompt(question, RowForm::kMessages, PromptTemplate::kAuto),
            "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n");
}

TEST(PromptTemplate, RefusesWhatDoesNotFit) {
  EXPECT_ERROR(ConfigError, render(kBare, RowForm::kText, PromptTemplate::kAlpaca),
               "prompt_template none");
  EXPECT_ERROR(ConfigError, render(kChat, RowForm::kMessages, PromptTemplate::kDolly),
               "prompt_template chat or chatml");
  const Record parts{.messages = {{.role = "user", .content = "", .has_text = false}}};
  EXPECT_ERROR(ValueError, render(parts, RowForm::kMessages, PromptTemplate::kChatml),
               "a content that is no text");
  EXPECT_ERROR(ConfigError, render(kChat, RowForm::kMessages, PromptTemplate::kChat),
               "the tokenizer has no chat template");
}

}  // namespace
}  // namespace qlora::data
