// How the program answers lines that it cannot act on, and what it says about itself.
#include <gtest/gtest.h>

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
  EXPECT_NE(program.out.find("129, 130 and 143"), std::string::npos);
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

// What a shell makes of a variable that is not set.
TEST(Usage, AnEmptyValueIsRefused) {
  const std::vector<std::vector<std::string>> lines = {{"perplexity", "--model-path"},
                                                       {"perplexity", "--adapter"},
                                                       {"perplexity", "--device"},
                                                       {"perplexity", "--compute-dtype"},
                                                       {"perplexity", "--text"},
                                                       {"perplexity", "--dataset-name"},
                                                       {"perplexity", "--tokens"},
                                                       {"perplexity", "--template"},
                                                       {"perplexity", "--loss-on"},
                                                       {"generate", "--prompt-file"},
                                                       {"generate", "--template"},
                                                       {"generate", "--chat-template"},
                                                       {"export", "--run"},
                                                       {"export", "--config"},
                                                       {"export", "--output-dir"},
                                                       {"export", "--bits"},
                                                       {"export", "--tokens"},
                                                       {"export", "--eval-tokens"},
                                                       {"export", "--compute-dtype"},
                                                       {"merge", "--format"},
                                                       {"merge", "--adapter"},
                                                       {"plan", "--device-memory"},
                                                       {"plan", "--gpu"},
                                                       {"plan", "--model-path"},
                                                       {"plan", "--parameters"},
                                                       {"plan", "--prefer"},
                                                       {"perplexity", "--threads"},
                                                       {"perplexity", "--blocks"},
                                                       {"perplexity", "--seq-len"},
                                                       {"perplexity", "--stride"},
                                                       {"perplexity", "--max-length"},
                                                       {"perplexity", "--limit"},
                                                       {"generate", "--max-new-tokens"},
                                                       {"generate", "--temperature"},
                                                       {"generate", "--top-k"},
                                                       {"generate", "--top-p"},
                                                       {"generate", "--repetition-penalty"},
                                                       {"export", "--threads"},
                                                       {"plan", "--context"},
                                                       {"plan", "--batch"},
                                                       {"plan", "--bits"},
                                                       {"plan", "--kv-bits"}};
  for (auto line : lines) {
    line.emplace_back("");
    expect_refused(qlora(line),
                   {"[usage] " + line[1] + ": is empty; give a value or leave the option out",
                    "see qlora " + line[0] + " --help"});
  }
  expect_refused(qlora({"compare", "a", ""}), {"quantized: is empty"});
  expect_refused(qlora({"compare", "", "b"}), {"original: is empty"});
  expect_refused(qlora({"plan", ""}), {"CONFIG: is empty"});
  expect_refused(qlora({"config", "validate", ""}), {"FILE: is empty"});
}

TEST(Usage, AnOptionBeforeItsSubcommandIsToldItsPlace) {
  expect_refused(qlora({"--json", "train", "x.json"}),
                 {"--json is an option of qlora train and has to stand behind it",
                  "qlora train ... --json; see qlora train --help"});
  expect_refused(qlora({"config", "--json", "explain", "lora.r"}),
                 {"qlora config explain ... --json"});
  expect_refused(qlora({"--jsn", "train", "x.json"}), {"did you mean --json?"});
}

TEST(Usage, ANumberOutsideItsTypeIsRefused) {
  for (const char* seed : {"-1", "1.5", "nan", "0x10", "99999999999999999999", ""}) {
    expect_refused(qlora({"generate", "--seed", seed}),
                   {"--seed: is ", "allowed: a whole number, 0 to 18446744073709551615"});
  }
  expect_refused(qlora({"generate", "--temperature", "nan"}),
                 {"temperature is nan, allowed: a number, 0 to 100"});
  expect_refused(qlora({"generate", "--top-p", "inf"}),
                 {"top_p is inf, allowed: a number, 0 to 1"});
  expect_refused(qlora({"plan", "--inference", "--parameters", "7B", "--bits", "-1"}),
                 {"--bits is -1, allowed: 2, 3, 4, 8, 16, 32"});
  expect_refused(qlora({"export", "--model-path", "x", "--threads", "-2"}), {"threads is -2"});
}

}  // namespace
}  // namespace qlora::testing
