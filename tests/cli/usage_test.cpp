// How the program answers lines that it cannot act on, and what it says about itself.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/cli/program.h"

namespace qlora::testing {
namespace {

TEST(Usage, HelpOfEverySubcommandHasExamplesAndExitsWithZero) {
  for (const char* command : {"train", "plan", "perplexity", "generate", "inspect", "config"}) {
    const ProgramResult result = qlora({command, "--help"});
    EXPECT_EQ(result.exit_code, 0) << command;
    EXPECT_EQ(result.err, "") << command;
    EXPECT_NE(result.out.find("Examples:"), std::string::npos) << command;
    EXPECT_NE(result.out.find(std::string("qlora ") + command), std::string::npos) << command;
  }
  const ProgramResult program = qlora({"--help"});
  EXPECT_EQ(program.exit_code, 0);
  EXPECT_NE(program.out.find("Exit codes"), std::string::npos);
}

TEST(Usage, VersionIsOneLine) {
  const ProgramResult result = qlora({"--version"});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(result.out.substr(0, 6), "qlora ");
  EXPECT_EQ(std::count(result.out.begin(), result.out.end(), '\n'), 1);
}

TEST(Usage, NoSubcommandIsRefused) {
  expect_refused(qlora({}), {"[usage]", "subcommand", "qlora --help"});
}

TEST(Usage, AMisspeltSubcommandGetsTheNearest) {
  expect_refused(qlora({"trian", "x.json"}), {"trian", "did you mean train?"});
  expect_refused(qlora({"perplexty"}), {"did you mean perplexity?"});
  expect_refused(qlora({"frobnicate"}), {"frobnicate is not known to qlora"});
}

TEST(Usage, AMisspeltOptionGetsTheNearest) {
  expect_refused(qlora({"perplexity", "--lod-in-4bit", "--text", "x"}),
                 {"--lod-in-4bit", "did you mean --load-in-4bit?", "qlora perplexity --help"});
  expect_refused(qlora({"generate", "--max-new-token=3"}), {"did you mean --max-new-tokens?"});
  expect_refused(qlora({"config", "explan", "lora.r"}), {"did you mean explain?"});
}

TEST(Usage, AValueThatIsNoNumberIsRefused) {
  expect_refused(qlora({"perplexity", "--seq-len", "many"}), {"--seq-len", "many"});
  expect_refused(qlora({"generate", "--top-p", "x"}), {"--top-p", "x"});
}

TEST(Usage, AMissingArgumentIsNamed) {
  expect_refused(qlora({"train"}), {"CONFIG", "qlora train --help"});
  expect_refused(qlora({"config", "validate"}), {"FILE"});
}

TEST(Usage, AFullDiskUnderStandardOutputIsAnError) {
  const ProgramResult result =
      run_program("/bin/sh", {"-c", program_path() + " --help > /dev/full"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_NE(result.err.find("cannot write to standard output"), std::string::npos) << result.err;
}

TEST(Config, ExplainsAKeyAndASection) {
  const ProgramResult key = qlora({"config", "explain", "lora.r"});
  EXPECT_EQ(key.exit_code, 0);
  EXPECT_NE(key.out.find("rank"), std::string::npos);
  EXPECT_EQ(key.out.back(), '\n');
  EXPECT_EQ(qlora({"config", "explain", "lora"}).exit_code, 0);
  EXPECT_EQ(qlora({"config", "explain"}).exit_code, 0);
  expect_refused(qlora({"config", "explain", "lora.rnak"}), {"lora.rnak", "did you mean"});
}

TEST(Config, SchemaIsOneJsonObject) {
  const ProgramResult result = qlora({"config", "schema"});
  EXPECT_EQ(result.exit_code, 0);
  const auto schema = nlohmann::json::parse(result.out);
  EXPECT_TRUE(schema.at("properties").contains("lora"));
}

TEST(Config, DocsIsThePageInTheTree) {
  const ProgramResult result = qlora({"config", "docs"});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(result.out.substr(0, 2), "# ");
}

TEST(Config, ValidatesAFile) {
  const TemporaryFolder folder;
  write_text(folder / "good.json",
             R"({"model_name_or_path": "m", "data": {"dataset_name": "d.jsonl"}})");
  const ProgramResult good = qlora({"config", "validate", folder / "good.json"});
  EXPECT_EQ(good.exit_code, 0) << good.err;
  EXPECT_NE(good.out.find("is valid"), std::string::npos);
  expect_refused(qlora({"config", "validate", folder / "good.json", "--set", "lora.r=0"}),
                 {"lora.r"});
  expect_refused(qlora({"config", "validate", folder / "missing.json"}), {"missing.json"});
}

}  // namespace
}  // namespace qlora::testing
