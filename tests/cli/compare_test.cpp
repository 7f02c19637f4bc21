// `qlora compare`.
#include "tests/cli/fixture.h"

namespace qlora::testing {
namespace {

using CompareProgram = ProgramTest;

TEST_F(CompareProgram, CountsBytesOfTwoModels) {
  std::filesystem::copy(folder_ / "model", folder_ / "copy");
  write_text(folder_ / "copy" / "note.txt", std::string(100'000, 'x'));
  const ProgramResult json = qlora({"compare", path("copy"), path("model"), "--json"});
  ASSERT_EQ(json.exit_code, 0) << json.err;
  const auto facts = nlohmann::json::parse(json.out);
  const int64_t more = facts.at("original").at("bytes"), less = facts.at("quantized").at("bytes");
  EXPECT_EQ(more, less + 100'000);
  EXPECT_EQ(facts.at("original").at("tensor_bytes"), facts.at("quantized").at("tensor_bytes"));
  EXPECT_DOUBLE_EQ(facts.at("compression_ratio"), static_cast<double>(more) / double(less));
  const ProgramResult text = qlora({"compare", path("copy"), path("model")});
  EXPECT_EQ(text.exit_code, 0) << text.err;
  for (const char* word : {"ratio", "saved", " GB, ", " GiB", "attention", "embedding"}) {
    EXPECT_NE(text.out.find(word), std::string::npos) << word;
  }
}

TEST_F(CompareProgram, RefusesWhatIsNoModel) {
  expect_refused(qlora({"compare", path("model"), path("nothing")}), {"does not exist"});
  std::filesystem::create_directory(folder_ / "empty");
  expect_refused(qlora({"compare", path("model"), path("empty")}), {"holds no weights"});
  expect_refused(qlora({"compare", path("model")}), {"compare --help"});
}

}  // namespace
}  // namespace qlora::testing
