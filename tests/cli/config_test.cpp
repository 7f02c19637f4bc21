// `qlora config`.
#include <filesystem>

#include "tests/cli/fixture.h"
#include "tests/support/errors.h"

namespace qlora::testing {
namespace {

namespace fs = std::filesystem;

TEST(Config, ExplainsAKeyAndASection) {
  const ProgramResult key = qlora({"config", "explain", "lora.r"});
  EXPECT_EQ(key.exit_code, 0);
  EXPECT_NE(key.out.find("rank"), std::string::npos);
  EXPECT_EQ(key.out.back(), '\n');
  EXPECT_EQ(qlora({"config", "explain", "lora"}).exit_code, 0);
  EXPECT_EQ(qlora({"config", "explain"}).exit_code, 0);
  expect_refused(qlora({"config", "explain", "lora.rnak"}), {"lora.rnak", "did you mean"});
  expect_refused(qlora({"config", "explain", ""}), {"KEY: is empty"});
}

TEST(Config, ExplainsAsJson) {
  const auto explained = [](const std::string& key) {
    return nlohmann::json::parse(qlora({"config", "explain", key, "--json"}).out);
  };
  const auto rank = explained("lora_r");
  EXPECT_EQ(rank.at("key"), "lora.r");
  EXPECT_EQ(rank.at("type"), "a whole number");
  EXPECT_EQ(rank.at("default"), 16);
  EXPECT_EQ(rank.at("allowed"), "1 to 1024");
  EXPECT_EQ(explained("lora").at("keys").front().at("key").get<std::string>().substr(0, 5),
            "lora.");
}

TEST(Config, SchemaIsOneJsonObject) {
  const ProgramResult result = qlora({"config", "schema"});
  EXPECT_EQ(result.exit_code, 0);
  const auto schema = nlohmann::json::parse(result.out);
  EXPECT_TRUE(schema.at("properties").contains("learning_rate"));
  EXPECT_EQ(qlora({"config", "schema", "--json"}).out, result.out);
}

TEST(Config, DocsIsThePageInTheTree) {
  const ProgramResult result = qlora({"config", "docs"});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(result.out.substr(0, 2), "# ");
}

class Validate : public ProgramTest {
 protected:
  ProgramResult validate(std::vector<std::string> more = {}) {
    write_config();
    more.insert(more.begin(), {"config", "validate", path("run.json")});
    return qlora(more);
  }
};

TEST_F(Validate, SaysValidAndWritesNothing) {
  const ProgramResult result = validate();
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.out, path("run.json") + " is valid\n");
  EXPECT_FALSE(fs::exists(path("out")));
}

TEST_F(Validate, JsonHoldsTheNoticesThePlanAndEveryKey) {
  const ProgramResult result = validate({"--json", "--set", "lora.rank=2"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const auto facts = nlohmann::json::parse(result.out);
  EXPECT_EQ(facts.at("valid"), true);
  EXPECT_EQ(facts.at("plan").at("total_steps"), 6);
  EXPECT_EQ(facts.at("config").at("lora").at("r"), 2);
  EXPECT_SAYS(facts.at("notices").dump(), "lora.rank is read as lora.r");
  EXPECT_SAYS(result.err, "lora.rank is read as lora.r");
}

TEST_F(Validate, RefusesWhatTrainWouldRefuse) {
  expect_refused(validate({"--set", "lora.r=0"}), {"lora.r"});
  expect_refused(validate({"--set", "model_name_or_path=" + path("no-model")}),
                 {"no-model", "does not exist"});
  expect_refused(validate({"--set", "data.dataset_name=" + path("no-rows.jsonl")}),
                 {"no-rows.jsonl"});
  expect_refused(validate({"--set", "lora.target_modules=q_porj"}), {"q_porj", "q_proj"});
  expect_refused(validate({"--set", "lora.init_adapter=" + path("no-adapter")}), {"no-adapter"});
  write_text(folder_ / "t.jinja", "{{ messages[0].content }}");
  expect_refused(validate({"--set", "data.chat_template_path=" + path("t.jinja"), "--set",
                           "data.prompt_template=chat", "--set", "data.chat_template_kwargs={"}),
                 {"chat_template_kwargs"});
  expect_refused(validate({"--set", "qat.scheme=int4-gptq", "--set", "qat.start_step=6"}),
                 {"start_step is 6", "6 steps"});
  expect_refused(validate({"--set", "export.format=awq", "--set", "export.bits=3"}), {"awq"});
  expect_refused(qlora({"config", "validate", path("missing.json")}), {"missing.json"});
  fs::create_directories(folder_ / "out");
  write_text(folder_ / "out/notes.txt", "precious\n");
  expect_refused(validate(), {path("out"), "--overwrite"});
  fs::remove(folder_ / "model/tokenizer.json");
  expect_refused(validate({"--set", "output_dir=" + path("other")}), {"tokenizer"});
}

TEST_F(Validate, AFileWithSectionExportAloneIsCheckedByItself) {
  for (const char* name : {"prototype", "production", "low-memory", "accuracy"}) {
    const std::string file = std::string(QLORA_SOURCE_DIR) + "/configs/export-" + name + ".json";
    const ProgramResult result = qlora({"config", "validate", file});
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_SAYS(result.out, "is valid: section export alone");
  }
  config_ = {{"export", {{"quantization_type", "awq"}, {"format", "awq"}}}};
  const auto facts = nlohmann::json::parse(validate({"--json"}).out);
  EXPECT_EQ(facts.at("config").at("export").at("format"), "awq");
  expect_refused(validate({"--set", "export.bits=3"}), {"awq", "3 bits"});
  expect_refused(validate({"--set", "export.max_shard_size=much"}), {"max_shard_size", "much"});
  expect_refused(
      validate({"--set", "export.quantization_type=gptq", "--set", "export.desc_act=true"}),
      {"desc_act", "awq"});
  config_ = nlohmann::ordered_json::object();
  expect_refused(validate(), {"model_name_or_path is empty"});
}

}  // namespace
}  // namespace qlora::testing
