#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "data/tokenizer.h"
#include "io/sha256.h"
#include "tests/data/corpus.h"
#include "tests/data/data_files.h"

namespace qlora::data {
namespace {

std::string ids_sha256(const Tokenizer& tokenizer, const std::vector<std::string>& texts) {
  io::Sha256 hash;
  for (const std::string& text : texts) {
    const auto ids = tokenizer.encode(text);
    const auto count = static_cast<uint32_t>(ids.size());
    hash.update(std::as_bytes(std::span(&count, 1)));
    hash.update(std::as_bytes(std::span(ids)));
  }
  return hash.hex();
}

nlohmann::json read_json(const std::filesystem::path& path) {
  return nlohmann::json::parse(io::read_file(path));
}

void expect_equal_to_reference(const Tokenizer& tokenizer, const nlohmann::json& expected) {
  const auto tricky = test::tricky_texts();
  ASSERT_EQ(expected["cases"].size(), tricky.size());
  for (size_t i = 0; i < tricky.size(); ++i) {
    const auto& known = expected["cases"][i];
    ASSERT_EQ(known["text"], tricky[i]) << "the generator has changed: make the fixtures anew";
    const auto ids = tokenizer.encode(tricky[i]);
    EXPECT_EQ(ids, known["ids"].get<std::vector<int32_t>>()) << tricky[i];
    if (known.contains("decoded")) {
      EXPECT_EQ(tokenizer.decode(ids, true), known["decoded"].get<std::string>()) << tricky[i];
    }
  }
  EXPECT_EQ(ids_sha256(tokenizer, test::make_corpus(1'500'000, 11)),
            expected["corpus_sha256"].get<std::string>());
  EXPECT_EQ(ids_sha256(tokenizer, test::make_random_strings(100'000, 7)),
            expected["random_sha256"].get<std::string>());
}

class TokenizerParity : public ::testing::TestWithParam<const char*> {};

TEST_P(TokenizerParity, EqualsTheReferenceTokenForToken) {
  const auto folder = fixture("tokenizers") / GetParam();
  expect_equal_to_reference(*load_tokenizer(folder), read_json(folder / "expected.json"));
}

INSTANTIATE_TEST_SUITE_P(Fixtures, TokenizerParity,
                         ::testing::Values("gpt2", "gpt2_prefix_space", "smollm", "llama3", "qwen2",
                                           "llama2", "metaspace", "sp_bpe", "sp_unigram"),
                         [](const auto& info) { return std::string(info.param); });

std::filesystem::path smollm2_file() {
  const auto folder = std::filesystem::path(QLORA_SOURCE_DIR) / "models/smollm2-135m";
  if (!std::filesystem::exists(folder)) return {};
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() == ".gguf") return entry.path();
  }
  return {};
}

TEST(SmolLm2Tokenizer, EqualsTheReferenceTokenForToken) {
  const auto file = smollm2_file();
  if (file.empty()) GTEST_SKIP() << "models/smollm2-135m is not there (scripts/get_model.sh)";
  const auto tokenizer = load_tokenizer(file);
  EXPECT_EQ(tokenizer->vocab_size(), 49152);
  EXPECT_EQ(tokenizer->special().bos, 1);
  EXPECT_EQ(tokenizer->special().eos, 2);
  EXPECT_EQ(tokenizer->special().pad, 2);
  EXPECT_EQ(tokenizer->special().unk, 0);
  EXPECT_FALSE(tokenizer->add_bos());
  EXPECT_TRUE(tokenizer->chat_template().starts_with("{% for message in messages %}"));
  expect_equal_to_reference(*tokenizer, read_json(fixture("tokenizers/smollm2_expected.json")));
}

TEST(SmolLm2Tokenizer, SavedInHuggingFaceFormIsTheSame) {
  const auto file = smollm2_file();
  if (file.empty()) GTEST_SKIP() << "models/smollm2-135m is not there (scripts/get_model.sh)";
  const TemporaryFolder folder;
  EXPECT_EQ(save_tokenizer_files(file, folder.path()),
            (std::vector<std::string>{"tokenizer.json", "tokenizer_config.json"}));
  const auto first = load_tokenizer(file), second = load_tokenizer(folder.path());
  EXPECT_EQ(second->special().eos, 2);
  EXPECT_EQ(second->chat_template(), first->chat_template());
  const auto texts = test::make_random_strings(5'000, 3);
  EXPECT_EQ(ids_sha256(*first, texts), ids_sha256(*second, texts));
}

}  // namespace
}  // namespace qlora::data
