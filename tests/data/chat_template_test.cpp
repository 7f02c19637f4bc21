#include "data/chat_template.h"

#include <gtest/gtest.h>

#include "data/example_builder.h"
#include "data/prompt_template.h"
#include "tests/data/data_files.h"

namespace qlora::data {
namespace {

using Pieces = std::vector<Piece>;

// Templates of the kinds that are published, written for these tests.
constexpr const char* kTurns =
    "{%- for m in messages %}\n"
    "    {{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}\n"
    "{%- endfor %}\n"
    "{%- if add_generation_prompt %}\n"
    "    {{- '<|im_start|>assistant\\n' }}\n"
    "{%- endif %}\n";
constexpr const char* kMarked =
    "{%- for m in messages %}"
    "{%- if m.role == 'assistant' %}{{- 'A:' }}{% generation %}{{ m.content + eos_token }}"
    "{% endgeneration %}{%- else %}{{- m.role + ':' + m.content + ' ' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- 'A:' }}{%- endif %}";
// The last answer shows that nothing was thought, earlier ones do not.
constexpr const char* kThinking =
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think></think>{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
// No turn can be told from what stands before it.
constexpr const char* kCounting =
    "{{ messages|length }}{% for m in messages %}{{ m.role }}{{ m.content }}{% endfor %}";

const std::vector<Message> kChat = {
    {"system", "S"}, {"user", "Q"}, {"assistant", "A"}, {"user", "R"}, {"assistant", "B"}};

class ChatTemplateTest : public ::testing::Test {
 protected:
  ChatTemplateOptions options(const std::string& source) {
    folder_.put("t.jinja", source);
    return {.chat_template_path = (folder_.path() / "t.jinja").string()};
  }
  ChatTemplate with(const std::string& source) {
    return ChatTemplate(*tokenizer_, options(source));
  }
  Example built(const std::string& source, const Record& record, LossOn loss_on) {
    const ExampleOptions all{
        .prompt_template = PromptTemplate::kChat, .chat = options(source), .loss_on = loss_on};
    return build_example(record, RowRenderer(RowForm::kMessages, all, *tokenizer_), all,
                         *tokenizer_);
  }
  std::string learnt_text(const Example& example) {
    std::vector<int32_t> ids;
    for (size_t i = 0; i < example.tokens.size(); ++i) {
      if (example.learn[i]) ids.push_back(example.tokens[i]);
    }
    return tokenizer_->decode(ids, true);
  }

  TemporaryFolder folder_;
  std::unique_ptr<const Tokenizer> tokenizer_ = fixture_tokenizer("smollm");
};

TEST_F(ChatTemplateTest, GenerationBlocksSayWhatIsLearnt) {
  EXPECT_EQ(
      with(kMarked).render(kChat, {}),
      (Pieces{
          {"system:S user:Q A:"}, {"A<|im_end|>", true}, {"user:R A:"}, {"B<|im_end|>", true}}));
  EXPECT_EQ(with(kMarked).prompt({kChat.begin(), kChat.begin() + 2}, {}), "system:S user:Q A:");
}

TEST_F(ChatTemplateTest, WithoutBlocksTheTurnsAreFoundByTheirBeginnings) {
  // The line break behind the token that ends a turn is the template's.
  EXPECT_EQ(with(kTurns).render(kChat, {}),
            (Pieces{{"<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n<|im_start|>"
                     "assistant\n"},
                    {"A<|im_end|>", true},
                    {"\n<|im_start|>user\nR<|im_end|>\n<|im_start|>assistant\n"},
                    {"B<|im_end|>", true},
                    {"\n"}}));
}

TEST_F(ChatTemplateTest, AnEarlierTurnMayBeWrittenOtherwiseThanTheLast) {
  EXPECT_EQ(with(kThinking).render(kChat, {}),
            (Pieces{{"<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n<|im_start|>"
                     "assistant\n"},
                    {"A<|im_end|>", true},
                    {"\n<|im_start|>user\nR<|im_end|>\n<|im_start|>assistant\n"},
                    {"<think></think>B<|im_end|>", true},
                    {"\n"}}));
}

TEST_F(ChatTemplateTest, WhatCannotBeToldApartIsRefused) {
  EXPECT_ERROR(ValueError, with(kCounting).render(kChat, {}),
               "the turns up to the assistant's at place 3 is not how the whole conversation "
               "begins");
  Record record{.messages = kChat, .line = 7};
  EXPECT_ERROR(ValueError, built(kCounting, record, LossOn::kResponse),
               "[data] line 7: [template]");
  EXPECT_EQ(built(kCounting, record, LossOn::kAll).tokens.back(), *tokenizer_->special().eos);
  EXPECT_ERROR(
      ValueError,
      with("{% set x %}{% generation %}a{% endgeneration %}{% endset %}").render(kChat, {}),
      "a generation block stands in a macro or a set block");
  EXPECT_ERROR(ValueError, with("{{ raise_exception('No system role') }}").render(kChat, {}),
               "the template refuses: No system role");
  EXPECT_ERROR(FormatError, with("{{ x|nope }}"), "the filter 'nope' is not known");
  EXPECT_ERROR(FormatError, with("\xFF"), "is not UTF-8");
}

TEST_F(ChatTemplateTest, ExamplesSpellTheirOwnEndAndBeginning) {
  const Record record{.messages = kChat};
  const Example example = built(kTurns, record, LossOn::kResponse);
  EXPECT_EQ(learnt_text(example), "A<|im_end|>B<|im_end|>");
  const Example all = built(kTurns, record, LossOn::kAll);
  EXPECT_EQ(all.tokens, example.tokens);
  EXPECT_EQ(all.tokens, tokenizer_->encode(with(kTurns).text(kChat, {}), {.add_special = false}));
  // A template without an end of its own gets eos.
  const Example open =
      built("{% for m in messages %}{{ m.content }} {% endfor %}", record, LossOn::kAll);
  EXPECT_EQ(open.tokens.back(), *tokenizer_->special().eos);
  // bos stands once, where the template puts it.
  const auto llama = fixture_tokenizer("llama3");
  const ExampleOptions bos{.prompt_template = PromptTemplate::kChat,
                           .chat = options("{{ bos_token }}{{ messages[0].content }}"),
                           .loss_on = LossOn::kAll};
  const RowRenderer renderer(RowForm::kMessages, bos, *llama);
  const Example once = build_example(record, renderer, bos, *llama);
  EXPECT_EQ(std::count(once.tokens.begin(), once.tokens.end(), *llama->special().bos), 1);
  EXPECT_TRUE(renderer.is_chat());
}

TEST_F(ChatTemplateTest, AnotherRoleCountsWhereTheTemplateRendersIt) {
  const Record record{.messages = {{"developer", "D"}, {"user", "Q"}, {"assistant", "A"}},
                      .line = 3};
  EXPECT_NO_THROW(built(kMarked, record, LossOn::kResponse));
  constexpr const char* kFussy =
      "{% for m in messages %}{% if m.role in ['user', 'assistant'] %}{{ m.role }}: "
      "{{ m.content }}\n{% endif %}{% endfor %}"
      "{% if add_generation_prompt %}assistant: {% endif %}";
  for (const LossOn loss_on : {LossOn::kResponse, LossOn::kAll}) {
    EXPECT_ERROR(ValueError, built(kFussy, record, loss_on),
                 "[data] line 3: a message has the role 'developer', allowed system, user");
  }
}

TEST_F(ChatTemplateTest, SaysThatARowWithoutTextMayNotSuitTheTemplate) {
  jinja::Dict calls;
  calls.set("role", "assistant");
  calls.set("tool_calls", jinja::Value::list({}));
  const Message called{
      .role = "assistant", .content = "", .has_text = false, .fields = jinja::Value::dict(calls)};
  constexpr const char* kTexts = "{% for m in messages %}{{ m.role + m.content }}{% endfor %}";
  EXPECT_ERROR(ValueError,
               built(kTexts, {.messages = {{"user", "Q"}, called}, .line = 3}, LossOn::kAll),
               "; a message of the row has no text as its content (parts, or tool calls alone)");
}

TEST_F(ChatTemplateTest, OtherFormsBecomeAConversation) {
  const ExampleOptions all{.prompt_template = PromptTemplate::kChat, .chat = options(kTurns)};
  const RowRenderer renderer(RowForm::kAlpaca, all, *tokenizer_);
  const Record row{.text = "Do it.", .input = "With this.", .response = "Done."};
  EXPECT_EQ(renderer.render(row),
            (Pieces{{"<|im_start|>user\nDo it.\n\nWith this.<|im_end|>\n<|im_start|>assistant\n"},
                    {"Done.<|im_end|>", true},
                    {"\n"}}));
  EXPECT_EQ(renderer.prompt(row),
            "<|im_start|>user\nDo it.\n\nWith this.<|im_end|>\n<|im_start|>assistant\n");
}

TEST_F(ChatTemplateTest, MessagesComeAsTransformersPreparesThem) {
  jinja::Dict fields;
  fields.set("role", "assistant");
  fields.set("content", jinja::Value());
  fields.set("reasoning", "why");
  const std::vector<Message> messages = {{.role = "assistant",
                                          .content = "",
                                          .has_text = false,
                                          .fields = jinja::Value::dict(fields)}};
  EXPECT_EQ(with("{{ messages }} {{ tools }} {{ documents }}").text(messages, {}),
            "[{'thinking': 'why', 'role': 'assistant', 'reasoning': 'why', 'reasoning_content': "
            "'why'}] None None");
}

TEST_F(ChatTemplateTest, VariablesAndTheDate) {
  ChatTemplateOptions given =
      options("{{ bos_token }}|{{ eos_token }}|{{ x }}|{{ strftime_now('%d %b %Y') }}");
  given.chat_template_kwargs = R"({"x": {"b": 1, "a": null}, "eos_token": "E"})";
  given.chat_template_date = "2024-02-29";
  EXPECT_EQ(ChatTemplate(*tokenizer_, given).text(kChat, {}),
            "<|im_start|>|E|{'b': 1, 'a': None}|29 Feb 2024");
  const auto refused = [&](const std::string& kwargs, const std::string& date,
                           const std::string& part) {
    given.chat_template_kwargs = kwargs;
    given.chat_template_date = date;
    EXPECT_SAYS(testing::message_of<Error>([&] { ChatTemplate(*tokenizer_, given); }), part);
    EXPECT_ERROR(ConfigError, check_options(given), part);
  };
  refused("[1]", "",
          "[data] data.chat_template_kwargs is array, expected a text that is a JSON object");
  refused("{", "", "[data] data.chat_template_kwargs: not JSON");
  refused("{", "", R"(expected a text that is a JSON object, as "{\"enable_thinking\": false}")");
  refused(R"({"a": 1, "a": 2})", "", "key 'a' stands twice");
  for (const char* name : {"messages", "tools", "documents", "add_generation_prompt"}) {
    refused(fmt::format(R"({{"{}": []}})", name), "",
            fmt::format("sets '{}', which the row or the program sets; allowed: names other than",
                        name));
  }
  refused(R"({"a": 18446744073709551615})", "", "grows beyond 64 bits");
  for (const char* date : {"today", "2024-02-30", "2024-13-01", "2024-01-01x", "24"}) {
    refused("", date, "expected a day as YYYY-MM-DD");
  }
}

TEST_F(ChatTemplateTest, ARowWithToolsTakesTheTemplateForThem) {
  for (const char* name : {"tokenizer.json", "tokenizer_config.json"}) {
    folder_.put(name, io::read_file(fixture("tokenizers/smollm") / name));
  }
  auto config = nlohmann::json::parse(io::read_file(folder_.path() / "tokenizer_config.json"));
  config["chat_template"] =
      nlohmann::json::array({{{"name", "tool_use"}, {"template", "T{{ tools|tojson }}"}},
                             {{"name", "default"}, {"template", "D"}}});
  folder_.put("tokenizer_config.json", config.dump());
  const auto both = load_tokenizer(folder_.path());
  jinja::Dict tool;
  tool.set("name", "f");
  const auto tools = jinja::Value::list({jinja::Value::dict(tool)});
  EXPECT_EQ(ChatTemplate(*both, {}).text(kChat, {}), "D");
  EXPECT_EQ(ChatTemplate(*both, {}).text(kChat, tools), R"(T[{"name": "f"}])");
  // transformers 5 keeps further ones in a folder; a file counts more than the list.
  std::filesystem::create_directories(folder_.path() / "additional_chat_templates");
  folder_.put("additional_chat_templates/tool_use.jinja", "F");
  folder_.put("chat_template.jinja", "J");
  const auto files = load_tokenizer(folder_.path());
  EXPECT_EQ(files->chat_templates(),
            (std::vector<NamedTemplate>{{"default", "J"}, {"tool_use", "F"}}));
  const TemporaryFolder copy;
  save_tokenizer_files(folder_.path(), copy.path());
  EXPECT_EQ(load_tokenizer(copy.path())->chat_templates(), files->chat_templates());
}

TEST_F(ChatTemplateTest, GivenTemplatesTakeThePlaceOfTheTokenizers) {
  for (const char* name : {"tokenizer.json", "tokenizer_config.json"}) {
    folder_.put(name, io::read_file(fixture("tokenizers/smollm") / name));
  }
  std::filesystem::create_directories(folder_.path() / "additional_chat_templates");
  folder_.put("additional_chat_templates/tool_use.jinja", "old");
  folder_.put("chat_template.jinja", "old");
  const auto config_of = [](const std::filesystem::path& folder) {
    return nlohmann::json::parse(io::read_file(folder / "tokenizer_config.json"));
  };
  const TemporaryFolder one, more;
  EXPECT_EQ(
      save_tokenizer_files(folder_.path(), one.path(), {{"default", "N"}}),
      (std::vector<std::string>{"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}));
  EXPECT_EQ(load_tokenizer(one.path())->chat_templates(),
            (std::vector<NamedTemplate>{{"default", "N"}}));
  EXPECT_EQ(config_of(one.path())["chat_template"], "N");  // for readers that know no files
  EXPECT_EQ(config_of(one.path())["eos_token"], config_of(folder_.path())["eos_token"]);

  // A name out of a foreign file is no path.
  const std::vector<NamedTemplate> named = {
      {"default", "N"}, {"rag", "R"}, {"../x", "X"}, {"", "E"}};
  save_tokenizer_files(folder_.path(), more.path() / "inner", named);
  EXPECT_EQ(load_tokenizer(more.path() / "inner")->chat_templates().size(), named.size());
  EXPECT_EQ(config_of(more.path() / "inner")["chat_template"][2]["name"], "../x");
  EXPECT_EQ(io::read_file(more.path() / "inner/additional_chat_templates/rag.jinja"), "R");
  EXPECT_FALSE(std::filesystem::exists(more.path() / "inner/x.jinja"));
  EXPECT_FALSE(std::filesystem::exists(more.path() / "x.jinja"));
}

TEST_F(ChatTemplateTest, AutoTakesTheCheckpointsTemplateForMessages) {
  EXPECT_EQ(resolve_template(PromptTemplate::kAuto, RowForm::kMessages, true),
            PromptTemplate::kChat);
  EXPECT_EQ(resolve_template(PromptTemplate::kAuto, RowForm::kMessages, false),
            PromptTemplate::kChatml);
  EXPECT_EQ(resolve_template(PromptTemplate::kAuto, RowForm::kAlpaca, true),
            PromptTemplate::kAlpaca);
}

Dataset load_rows(const std::string& text, const DatasetOptions& options = {}) {
  static const TemporaryFolder folder;
  folder.put("rows.jsonl", text);
  return load_dataset(folder.path() / "rows.jsonl", options);
}

TEST(ChatRows, ShareGptBecomesMessages) {
  const Dataset set = load_rows(
      R"({"system": "S", "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}, {"from": "observation", "value": "o"}, {"role": "user", "content": "u"}]})");
  EXPECT_EQ(set.form, RowForm::kMessages);
  std::string said;
  for (const Message& m : set.records[0].messages) said += m.role + "=" + m.content + " ";
  EXPECT_EQ(said, "system=S user=q assistant=a tool=o user=u ");
  EXPECT_EQ(load_rows(R"({"talk": [{"from": "user", "value": "q"}]})",
                      {.form = RowForm::kShareGpt, .conversations_field = "talk"})
                .records[0]
                .messages[0]
                .role,
            "user");
  EXPECT_ERROR(FormatError, load_rows(R"({"conversations": [{"from": "bot", "value": "q"}]})"),
               "the turn is from 'bot'; known are human");
  EXPECT_ERROR(FormatError, load_rows(R"({"conversations": [{"from": "gpt"}]})"),
               "no object with the texts 'from' and 'value'");
  EXPECT_ERROR(FormatError, load_rows(R"({"conversations": 1})"), "expected a list of messages");
}

TEST(ChatRows, ToolsAndEveryMemberReachTheTemplate) {
  const std::string messages =
      R"("messages": [{"role": "assistant", "content": null, "tool_calls": [{"z": 1, "a": 2.0}]}])";
  const Dataset set = load_rows("{" + messages + R"(, "tools": "[{\"b\": 1, \"a\": 2}]"})");
  EXPECT_EQ(to_repr(set.records[0].messages[0].as_value()),
            "{'role': 'assistant', 'content': None, 'tool_calls': [{'z': 1, 'a': 2.0}]}");
  EXPECT_FALSE(set.records[0].messages[0].has_text);
  EXPECT_EQ(to_repr(set.records[0].tools), "[{'b': 1, 'a': 2}]");
  const auto refused = [&](const std::string& tools, const std::string& part) {
    EXPECT_ERROR(FormatError, load_rows("{" + messages + ", \"tools\": " + tools + "}"), part);
  };
  refused("1", "the field 'tools' is number, expected a list of tools");
  refused("[1]", "a tool in 'tools' is number");
  refused("\"{\"", "not JSON");
  refused("[{\"a\": 18446744073709551615}]", "grows beyond 64 bits");
  EXPECT_TRUE(load_rows("{" + messages + ", \"tools\": \"\"}").records[0].tools.is_none());
  EXPECT_ERROR(FormatError, load_rows(R"({"messages": [{"content": "x"}]})"),
               "lacks the field 'role'");
  EXPECT_ERROR(FormatError, load_rows(R"({"messages": [{"role": "user", "content": 1}]})"),
               "the content of a message is number");
}

}  // namespace
}  // namespace qlora::data
