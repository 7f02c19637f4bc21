// `qlora generate`.
#include "tests/cli/fixture.h"
#include "tests/support/errors.h"

namespace qlora::testing {
namespace {

class GenerateProgram : public ProgramTest {
 protected:
  std::vector<std::string> line(std::vector<std::string> more) {
    more.insert(more.begin(), {"generate", "--model-path", path("model"), "--compute-dtype", "fp32",
                               "--max-new-tokens", "12"});
    return more;
  }
  nlohmann::json facts(std::vector<std::string> more, const ProgramInput& input = {}) {
    more.emplace_back("--json");
    const ProgramResult result = qlora(line(std::move(more)), input);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return nlohmann::json::parse(result.out);
  }
};

TEST_F(GenerateProgram, StreamsTheTextOfTheJsonObject) {
  const auto object = facts({"--prompt", "The cat"});
  EXPECT_EQ(object.at("prompt"), "The cat");
  EXPECT_EQ(object.at("new_tokens"), object.at("tokens").size());
  EXPECT_GT(object.at("prompt_tokens").get<int>(), 0);
  const ProgramResult plain = qlora(line({"--prompt", "The cat"}));
  EXPECT_EQ(plain.exit_code, 0) << plain.err;
  // JSON holds the same text; what is no UTF-8 is U+FFFD in both.
  EXPECT_EQ(plain.out, object.at("text").get<std::string>() + "\n");
}

TEST_F(GenerateProgram, SeedsDecide) {
  const std::vector<std::string> sampled = {
      "--prompt", "The", "--temperature", "1.5", "--top-k", "50", "--top-p", "0.95", "--seed"};
  const auto with_seed = [&](const char* seed) {
    auto more = sampled;
    more.emplace_back(seed);
    return facts(more).at("tokens");
  };
  EXPECT_EQ(with_seed("1"), with_seed("1"));
  EXPECT_NE(with_seed("1"), with_seed("2"));
}

TEST_F(GenerateProgram, PromptFromAFileOrStandardInputLosesItsLastLineBreakOnly) {
  const auto direct = facts({"--prompt", "a\nb"});
  write_text(folder_ / "prompt.txt", "a\nb\n");
  EXPECT_EQ(facts({"--prompt-file", path("prompt.txt")}).at("tokens"), direct.at("tokens"));
  EXPECT_EQ(facts({}, {.standard_input = "a\nb\n"}).at("tokens"), direct.at("tokens"));
  EXPECT_EQ(facts({}, {.standard_input = "a\nb\r\n"}).at("prompt"), "a\nb");
}

TEST_F(GenerateProgram, EveryLineOfStandardInputGetsAnAnswer) {
  const ProgramResult result = qlora(line({}), {.standard_input = "The cat\r\n\n\r\nThe dog"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  const auto cat = facts({"--prompt", "The cat"}).at("text").get<std::string>();
  const auto dog = facts({"--prompt", "The dog"}).at("text").get<std::string>();
  EXPECT_EQ(result.out, cat + "\n\n\n" + dog + "\n");  // empty lines get empty answers
}

TEST_F(GenerateProgram, APromptThatSpellsTheBosThatTheTokenizerAddsIsRefused) {
  add_bos();
  expect_refused(qlora(line({"--prompt", "<|im_start|>The cat"})),
                 {"the prompt", "begins with <|im_start|>", "the tokenizer adds it too"});
  EXPECT_EQ(facts({"--prompt", "x"}).at("prompt_tokens"), 2);
  write_text(folder_ / "t.jinja", "<|im_start|>{{ messages[0].content }}");  // spells it alone
  const auto chat =
      facts({"--prompt", "x", "--template", "chat", "--chat-template", path("t.jinja")});
  EXPECT_EQ(chat.at("prompt_tokens"), 2);
}

TEST_F(GenerateProgram, TemplatesWrapThePrompt) {
  const auto plain = facts({"--prompt", "Say it."}).at("prompt_tokens").get<int>();
  for (const char* name : {"dolly", "alpaca", "chatml"}) {
    const auto wrapped = facts({"--prompt", "Say it.", "--template", name});
    EXPECT_GT(wrapped.at("prompt_tokens").get<int>(), plain) << name;
    const auto context =
        facts({"--instruction", "Say it.", "--context", "Loudly.", "--template", name});
    EXPECT_GT(context.at("prompt_tokens"), wrapped.at("prompt_tokens")) << name;
  }
  const auto spelt =
      facts({"--prompt", "### Instruction:\nSay it.\n\n### Input:\n\n\n### Response:\n"});
  EXPECT_EQ(facts({"--prompt", "Say it.", "--template", "dolly"}).at("tokens"), spelt.at("tokens"));
}

TEST_F(GenerateProgram, ChatRendersAJinjaTemplate) {
  write_text(folder_ / "t.jinja",
             "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
             "{% if add_generation_prompt %}[assistant] {% endif %}");
  const std::vector<std::string> asked = {"--prompt",        "Say it.",      "--system",
                                          "Be loud.",        "--template",   "chat",
                                          "--chat-template", path("t.jinja")};
  const auto spelt = facts({"--prompt", "[system] Be loud.\n[user] Say it.\n[assistant] "});
  EXPECT_EQ(facts(asked).at("tokens"), spelt.at("tokens"));
  EXPECT_EQ(facts(asked).at("prompt_tokens"), spelt.at("prompt_tokens"));

  const auto refused = [&](const std::vector<std::string>& more, const std::string& part) {
    const ProgramResult result = qlora(line(more));
    EXPECT_EQ(result.exit_code, 2);
    EXPECT_SAYS(result.err, part);
  };
  refused({"--prompt", "x", "--template", "chat"}, "the tokenizer has no chat template");
  refused({"--prompt", "x", "--system", "y"}, "--system goes with --template chat or chatml");
  refused({"--prompt", "x", "--chat-template", path("t.jinja")},
          "--chat-template goes with --template chat");
  write_text(folder_ / "t.jinja", "{{ raise_exception('No system role') }}");
  refused(asked, "line 1: the template refuses: No system role");
}

}  // namespace
}  // namespace qlora::testing
