// From a configuration to an adapter, its perplexity and its answers: the way of a user, on a model
// that fits a test.
#include <cmath>
#include <filesystem>

#include "tests/cli/fixture.h"

namespace qlora::testing {
namespace {

namespace fs = std::filesystem;

class WholeWay : public ProgramTest {
 protected:
  void SetUp() override {
    ProgramTest::SetUp();
    config_["max_steps"] = 150;
    config_["learning_rate"] = 2e-2;
    config_["lora"]["r"] = 16;
    config_["lora"]["lora_alpha"] = 16;
    config_["per_device_train_batch_size"] = 8;
    config_["eval_steps"] = 50;
    config_["eval_on_start"] = true;
    config_["save_strategy"] = "no";
    config_["logging_steps"] = 25;
    write_config();
  }
  nlohmann::json perplexity(std::vector<std::string> more) const {
    more.insert(more.begin(), {"perplexity", "--model-path", path("model"), "--load-in-4bit",
                               "--compute-dtype", "fp32", "--dataset-name", path("eval.jsonl"),
                               "--template", "dolly", "--max-length", "128", "--json"});
    const ProgramResult result = qlora(more);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return nlohmann::json::parse(result.out);
  }
};

TEST_F(WholeWay, LossFallsAndEveryPartOfTheProgramAgreesOnIt) {
  const ProgramResult trained = train({"--json"});
  ASSERT_EQ(trained.exit_code, 0) << trained.err;
  const auto facts = nlohmann::json::parse(trained.out);
  const double before = facts.at("first_evaluation").at("loss");
  const double after = facts.at("last_evaluation").at("loss");
  EXPECT_LT(after, 0.7 * before);

  // The final evaluation, and the same adapter read back from its file.
  const auto with_adapter = perplexity({"--adapter", path("out")});
  EXPECT_NEAR(with_adapter.at("nll").get<double>(), after, 2e-5 * after);
  EXPECT_EQ(with_adapter.at("tokens"), log_records(path("out"), "evaluation").back().at("tokens"));
  // Before the first step the adapter adds nothing: the base alone.
  EXPECT_NEAR(perplexity({}).at("nll").get<double>(), before, 2e-5 * before);
  // The base model is named in the adapter.
  const ProgramResult named =
      qlora({"perplexity", "--adapter", path("out"), "--load-in-4bit", "--compute-dtype", "fp32",
             "--dataset-name", path("eval.jsonl"), "--template", "dolly", "--json"});
  ASSERT_EQ(named.exit_code, 0) << named.err;
  EXPECT_EQ(nlohmann::json::parse(named.out).at("nll"), with_adapter.at("nll"));
}

TEST_F(WholeWay, TheAnswerIsWhatWasLearnt) {
  ASSERT_EQ(train({"--set", "max_steps=300"}).exit_code, 0);
  const std::vector<std::string> ask = {"generate",         "--model-path",
                                        path("model"),      "--load-in-4bit",
                                        "--compute-dtype",  "fp32",
                                        "--template",       "dolly",
                                        "--prompt",         "Say the colour of the river.",
                                        "--max-new-tokens", "24"};
  auto with_adapter = ask;
  with_adapter.insert(with_adapter.end(), {"--adapter", path("out")});
  const ProgramResult before = qlora(ask), after = qlora(with_adapter);
  EXPECT_EQ(before.exit_code, 0) << before.err;
  EXPECT_EQ(after.exit_code, 0) << after.err;
  EXPECT_EQ(before.out.find("The river is"), std::string::npos) << before.out;
  EXPECT_EQ(after.out.rfind("The ", 0), 0U) << after.out;
  EXPECT_NE(after.out.find(" is "), std::string::npos) << after.out;
}

TEST_F(WholeWay, SmolLm2IsMeasuredAndAnswers) {
  const fs::path model =
      fs::path(QLORA_SOURCE_DIR) / "models/smollm2-135m/SmolLM2-135M-Instruct.Q4_1.gguf";
  if (!fs::exists(model)) GTEST_SKIP() << "no model: " << model;
  write_text(folder_ / "text.txt",
             "The capital of France is Paris. The capital of Italy is Rome. Water boils at one "
             "hundred degrees Celsius, and it freezes at zero degrees.");
  const ProgramResult measured = qlora({"perplexity", "--model-path", model.string(), "--text",
                                        path("text.txt"), "--load-in-4bit", "--json"});
  ASSERT_EQ(measured.exit_code, 0) << measured.err;
  const auto facts = nlohmann::json::parse(measured.out);
  EXPECT_LT(facts.at("perplexity"), 15);
  EXPECT_EQ(facts.at("parameters"), 134515008);
  const ProgramResult answer = qlora({"generate", "--model-path", model.string(), "--prompt",
                                      "The capital of France is", "--max-new-tokens", "4"});
  ASSERT_EQ(answer.exit_code, 0) << answer.err;
  EXPECT_NE(answer.out.find("Paris"), std::string::npos) << answer.out;
}

}  // namespace
}  // namespace qlora::testing
