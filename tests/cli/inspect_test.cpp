// `qlora inspect`.
#include "tests/cli/fixture.h"

namespace qlora::testing {
namespace {

class InspectProgram : public ProgramTest {
 protected:
  static nlohmann::json facts(std::vector<std::string> more) {
    more.insert(more.begin(), "inspect");
    more.emplace_back("--json");
    const ProgramResult result = qlora(more);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return nlohmann::json::parse(result.out);
  }
};

TEST_F(InspectProgram, ModelFolder) {
  const auto model = facts({path("model")});
  EXPECT_EQ(model.at("kind"), "Hugging Face model");
  const int64_t block = 64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 128 + 2 * 64;
  EXPECT_EQ(model.at("parameters"), kTinyVocabulary * 64 + 2 * block + 64);
  EXPECT_EQ(model.at("model").at("parameters"), model.at("parameters"));
  EXPECT_EQ(model.at("model").at("layers"), 2);
  EXPECT_EQ(model.at("bits_per_parameter"), 16.0);
  EXPECT_EQ(model.at("types").at(0).at("type"), "BF16");
  EXPECT_EQ(model.at("tokenizer").at("eos"), "256 <|endoftext|>");
  EXPECT_FALSE(model.contains("tensor_list"));
  EXPECT_FALSE(model.contains("not_supported"));
}

TEST_F(InspectProgram, ListsTensorsWhereAsked) {
  const auto file = facts({path("model/model.safetensors"), "--tensors"});
  EXPECT_EQ(file.at("kind"), "safetensors");
  EXPECT_EQ(file.at("tensor_list").size(), file.at("tensors"));
  const ProgramResult text = qlora({"inspect", path("model/model.safetensors"), "--tensors"});
  EXPECT_NE(text.out.find("model.layers.1.mlp.down_proj.weight"), std::string::npos);
  EXPECT_NE(text.out.find("[64, 128]"), std::string::npos);
}

TEST_F(InspectProgram, AModelThatIsNotSupportedIsDescribedAndSaysSo) {
  auto config = nlohmann::json::parse(read_text(folder_ / "model/config.json"));
  config["architectures"] = {"MambaForCausalLM"};
  config["model_type"] = "mamba";
  write_text(folder_ / "model/config.json", config.dump());
  const auto model = facts({path("model")});
  EXPECT_NE(model.at("not_supported").get<std::string>().find("Mamba"), std::string::npos);
  EXPECT_GT(model.at("parameters").get<int64_t>(), 0);
}

TEST_F(InspectProgram, AdapterFolder) {
  const std::string folder = std::string(QLORA_SOURCE_DIR) + "/tests/fixtures/parity/adapters/";
  const auto adapter = facts({folder + "all_linear"});
  EXPECT_EQ(adapter.at("kind"), "PEFT adapter");
  EXPECT_EQ(adapter.at("peft_type"), "LORA");
  EXPECT_EQ(adapter.at("adapted_linears").get<int>() * 2, adapter.at("tensors").get<int>());
  EXPECT_FALSE(adapter.contains("not_supported"));
}

TEST_F(InspectProgram, RunDirectory) {
  ASSERT_EQ(train().exit_code, 0);
  const auto run = facts({path("out")});
  EXPECT_EQ(run.at("kind"), "training run");
  EXPECT_EQ(run.at("finished"), true);
  EXPECT_EQ(run.at("config").at("r"), 4);
  EXPECT_EQ(run.at("training").at("steps"), 6);
  EXPECT_EQ(run.at("training").at("first_loss"), losses(path("out")).front());
  EXPECT_EQ(run.at("training").at("last_loss"), losses(path("out")).back());
  EXPECT_EQ(run.at("evaluations").size(), log_records(path("out"), "evaluation").size());
  ASSERT_FALSE(run.at("checkpoints").empty());
  for (const auto& checkpoint : run.at("checkpoints"))
    EXPECT_EQ(checkpoint.at("state"), "complete");
  const auto checkpoint = facts({path("out/checkpoint-6")});
  EXPECT_EQ(checkpoint.at("kind"), "PEFT adapter");
  EXPECT_NE(qlora({"inspect", path("out")}).out.find("checkpoint-6"), std::string::npos);

  auto config = nlohmann::json::parse(read_text(folder_ / "out/config.resolved.json"));
  config["lora"] = nlohmann::json::array();  // by hand: what is no section has no facts
  write_text(folder_ / "out/config.resolved.json", config.dump());
  EXPECT_FALSE(facts({path("out")}).at("config").contains("r"));
}

TEST_F(InspectProgram, ARunWhoseAdapterCannotBeReadIsNotFinished) {
  const std::filesystem::path run = folder_ / "run";
  std::filesystem::copy(
      std::filesystem::path(QLORA_SOURCE_DIR) / "tests/fixtures/parity/adapters/q_v_only", run);
  write_text(run / "log.jsonl", R"({"kind":"step","step":1,"loss":2.5})"
                                "\n");
  const auto sound = facts({run.string()});
  EXPECT_EQ(sound.at("finished"), true);
  EXPECT_FALSE(sound.contains("problem"));
  EXPECT_FALSE(sound.contains("unreadable_log_lines"));

  write_text(run / "log.jsonl", "{\"kind\":\"finish\"}\n{\"kind\":\"start\",\"step\":1}\n");
  EXPECT_EQ(facts({run.string()}).at("finished"), false);  // resumed, and at work
  write_text(run / "log.jsonl", "{\"kind\":\"start\"}\n{\"kind\":\"finish\"}\n");
  EXPECT_EQ(facts({run.string()}).at("finished"), true);

  const auto weights = run / "adapter_model.safetensors";
  std::filesystem::resize_file(weights, std::filesystem::file_size(weights) - 10);
  const auto cut = facts({run.string()});
  EXPECT_EQ(cut.at("finished"), false);
  EXPECT_NE(cut.at("problem").get<std::string>().find("adapter_model.safetensors"),
            std::string::npos);
  EXPECT_NE(qlora({"inspect", run.string()}).out.find("the adapter cannot be read: [io]"),
            std::string::npos);

  std::filesystem::remove(weights);  // a run that goes on
  const auto unfinished = facts({run.string()});
  EXPECT_EQ(unfinished.at("finished"), false);
  EXPECT_FALSE(unfinished.contains("problem"));
}

TEST_F(InspectProgram, LinesOfALogThatCannotBeReadAreCountedAndToldOnce) {
  folder_.put("run/log.jsonl", R"({"kind":"step","step":1,"loss":2.5})"
                               "\n\x01\xFF{\n\n[1]\n"
                               R"({"kind":"step","step":2,"lo)");
  const ProgramResult result = qlora({"inspect", path("run"), "--json"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  const auto run = nlohmann::json::parse(result.out);
  EXPECT_EQ(run.at("training").at("steps"), 1);
  EXPECT_EQ(run.at("unreadable_log_lines"), 3);
  EXPECT_NE(result.err.find("passed over: 3\n"), std::string::npos) << result.err;
  EXPECT_EQ(result.err.find("warning"), result.err.rfind("warning")) << result.err;
}

TEST_F(InspectProgram, DataShowsTextPiecesAndMask) {
  const auto data = facts({"--data", path("run.json"), "--rows", "2"});
  EXPECT_EQ(data.at("train").at("examples"), 24);
  EXPECT_EQ(data.at("eval").at("examples"), 8);
  ASSERT_EQ(data.at("samples").size(), 2U);
  const auto& sample = data.at("samples").at(0);
  EXPECT_EQ(sample.at("tokens").size(), sample.at("pieces").size());
  EXPECT_EQ(sample.at("tokens").size(), sample.at("learnt").size());
  EXPECT_EQ(sample.at("text").size(), 2U);
  EXPECT_EQ(sample.at("text").at(0).at("learnt"), false);
  EXPECT_EQ(sample.at("text").at(1).at("text"), "The cat is red.<|endoftext|>");
  const std::string prompt = sample.at("text").at(0).at("text");
  EXPECT_EQ(prompt,
            "### Instruction:\nSay the colour of the cat.\n\n### Input:\n\n\n### Response:\n");
}

TEST_F(InspectProgram, DataInColourAndWithout) {
  const auto plain = qlora({"inspect", "--data", path("run.json"), "--rows", "1"});
  EXPECT_EQ(plain.exit_code, 0) << plain.err;
  EXPECT_NE(plain.out.find("«The cat is red.<|endoftext|>»"), std::string::npos) << plain.out;
  EXPECT_EQ(plain.out.find('\x1b'), std::string::npos);
  const auto coloured =
      qlora({"inspect", "--data", path("run.json"), "--rows", "1", "--color", "always"});
  EXPECT_NE(coloured.out.find("\x1b[32mThe cat is red.<|endoftext|>\x1b[0m"), std::string::npos);
}

TEST_F(InspectProgram, DataCannotSteerTheTerminal) {
  write_text(folder_ / "train.jsonl",
             R"({"instruction": "\u001b]0;owned\u0007", "context": "", "response": "ok"})"
             "\n");
  const auto shown = qlora({"inspect", "--data", path("run.json")});
  EXPECT_EQ(shown.exit_code, 0) << shown.err;
  EXPECT_EQ(shown.out.find('\x1b'), std::string::npos);
}

TEST_F(InspectProgram, SmolLm2Gguf) {
  const std::filesystem::path folder = std::string(QLORA_SOURCE_DIR) + "/models/smollm2-135m";
  const auto file = folder / "SmolLM2-135M-Instruct.Q4_1.gguf";
  if (!std::filesystem::exists(file)) GTEST_SKIP() << "no model: " << file;
  const auto model = facts({file.string()});
  EXPECT_EQ(model.at("kind"), "GGUF model");
  EXPECT_EQ(model.at("model").at("parameters"), 134515008);
  EXPECT_EQ(model.at("metadata").at("general.architecture"), "llama");
  EXPECT_EQ(model.at("tokenizer").at("vocabulary"), 49152);
}

}  // namespace
}  // namespace qlora::testing
