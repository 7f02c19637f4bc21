#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <random>

#include "data/tokenizer.h"
#include "tests/data/corpus.h"
#include "tests/data/data_files.h"
#include "tests/io/gguf_builder.h"
#include "tests/io/mutate.h"
#include "tests/support/fuzz.h"

namespace qlora::data {
namespace {

using io::bytes_of;
using io::GgufBuilder;
using nlohmann::json;

std::string texts(const std::vector<std::string>& items) {
  std::string bytes;
  for (const auto& item : items) bytes += io::gguf_text(item);
  return bytes;
}

/// A GGUF file that holds nothing but the tokenizer of a fixture folder.
GgufBuilder from_fixture(const std::string& name, const std::string& pre) {
  const json tree = json::parse(io::read_file(fixture("tokenizers") / name / "tokenizer.json"));
  std::vector<std::string> pieces(tree["model"]["vocab"].size()), merges;
  std::string types;
  for (const auto& [piece, id] : tree["model"]["vocab"].items()) pieces[id.get<size_t>()] = piece;
  for (const auto& merge : tree["model"]["merges"]) {
    merges.push_back(merge.is_string()
                         ? merge.get<std::string>()
                         : merge[0].get<std::string>() + " " + merge[1].get<std::string>());
  }
  for (size_t i = 0; i < pieces.size(); ++i) {
    types += bytes_of<int32_t>(i < tree["added_tokens"].size() ? 3 : 1);
  }
  GgufBuilder gguf;
  gguf.text("tokenizer.ggml.model", "gpt2").text("tokenizer.ggml.pre", pre);
  gguf.array("tokenizer.ggml.tokens", 8, pieces.size(), texts(pieces));
  gguf.array("tokenizer.ggml.token_type", 5, pieces.size(), types);
  gguf.array("tokenizer.ggml.merges", 8, merges.size(), texts(merges));
  return gguf;
}

/// The fixtures equal the reference: what a GGUF file's pre-tokenizer gives has to equal them.
TEST(GgufTokenizer, NamedPreTokenizersEqualTheirJson) {
  const TemporaryFolder folder;
  const auto random = test::make_random_strings(3000, 4);
  for (const auto& [name, pre] : {std::pair{"gpt2", "gpt-2"},
                                  {"smollm", "smollm"},
                                  {"smollm", "starcoder"},
                                  {"llama3", "llama-bpe"},
                                  {"llama3", "llama3"},
                                  {"qwen2", "qwen2"}}) {
    auto gguf = from_fixture(name, pre);
    gguf.u32("tokenizer.ggml.bos_token_id", 0);
    const auto ours = load_tokenizer(folder.put("a.gguf", gguf.build()));
    const auto known = fixture_tokenizer(name);
    EXPECT_EQ(ours->add_bos(), known->add_bos()) << pre;
    for (const auto& text : random)
      ASSERT_EQ(ours->encode(text), known->encode(text)) << pre << text;
  }
}

/// Mistral's: the pattern of its tokenizer.json over the pieces of a fixture.
TEST(GgufTokenizer, TekkenCutsAsItsJson) {
  const TemporaryFolder folder;
  json tree = json::parse(io::read_file(fixture("tokenizers") / "llama3" / "tokenizer.json"));
  tree["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] =
      "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+|"
      "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*|"
      "\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
  const auto known = load_tokenizer(folder.put("tokenizer.json", tree.dump()));
  auto gguf = from_fixture("llama3", "tekken");
  gguf.u32("tokenizer.ggml.bos_token_id", 0);
  const auto ours = load_tokenizer(folder.put("a.gguf", gguf.build()));
  EXPECT_TRUE(ours->add_bos());
  int64_t as_llama3 = 0;
  const auto llama3 = fixture_tokenizer("llama3");
  auto samples = test::make_random_strings(3000, 4);
  for (const char* text :
       {"camelCase HTTPServer 1234", "a/b//\n c", "\u00c9T\u00c9 \u00e9t\u00e9X"}) {
    samples.push_back(text);
  }
  for (const auto& text : samples) {
    const auto ids = known->encode(text, {.add_special = false});
    ASSERT_EQ(ours->encode(text, {.add_special = false}), ids) << text;
    as_llama3 += ids == llama3->encode(text, {.add_special = false});
  }
  EXPECT_LT(as_llama3, static_cast<int64_t>(samples.size()));
}

TEST(GgufTokenizer, DefaultPreTokenizerCutsAsLlamaCpp) {
  const TemporaryFolder folder;
  const auto tokenizer =
      load_tokenizer(folder.put("a.gguf", from_fixture("gpt2", "default").build()));
  const auto known = fixture_tokenizer("gpt2");
  const auto plain = [&](const std::string& text) { return known->encode(text); };
  // Punctuation apart, numbers in threes from the left.
  std::vector<int32_t> expected;
  for (const char* word : {"a", "..", " b", "123", "45"}) {
    for (const int32_t id : plain(word)) expected.push_back(id);
  }
  EXPECT_EQ(tokenizer->encode("a.. b12345"), expected);
}

TEST(GgufTokenizer, BosAndEosWhereTheFileSaysSo) {
  const TemporaryFolder folder;
  auto gguf = from_fixture("gpt2", "gpt-2");
  gguf.u32("tokenizer.ggml.bos_token_id", 0).u32("tokenizer.ggml.eos_token_id", 0);
  gguf.value("tokenizer.ggml.add_bos_token", 7, bytes_of<uint8_t>(1));
  gguf.value("tokenizer.ggml.add_eos_token", 7, bytes_of<uint8_t>(1));
  gguf.text("tokenizer.chat_template", "{{ x }}");
  gguf.array("tokenizer.chat_templates", 8, 1, io::gguf_text("tool_use"));
  gguf.text("tokenizer.chat_template.tool_use", "{{ y }}");
  const auto tokenizer = load_tokenizer(folder.put("a.gguf", gguf.build()));
  EXPECT_TRUE(tokenizer->add_bos() && tokenizer->add_eos());
  const auto ids = tokenizer->encode("hi");
  EXPECT_EQ(ids.front(), 0);
  EXPECT_EQ(ids.back(), 0);
  EXPECT_EQ(tokenizer->chat_template(), "{{ x }}");
  EXPECT_EQ(tokenizer->chat_templates(),
            (std::vector<NamedTemplate>{{"default", "{{ x }}"}, {"tool_use", "{{ y }}"}}));
}

/// A small sentencepiece-like vocabulary with scores, as Llama's GGUF files have it.
GgufBuilder scored(bool with_bytes = true) {
  std::vector<std::string> pieces = {"<unk>", "<s>", "</s>"};
  std::string types, scores;
  for (const int32_t type : {2, 3, 3}) types += bytes_of(type);
  scores += bytes_of(0.f) + bytes_of(0.f) + bytes_of(0.f);
  for (int b = 0; with_bytes && b < 256; ++b) {
    pieces.push_back(fmt::format("<0x{:02X}>", b));
    types += bytes_of<int32_t>(6);
    scores += bytes_of(0.f);
  }
  float score = 0;
  for (const char* piece : {"\u2581h", "he", "\u2581he", "ll", "lo", "llo", "\u2581hello", "h", "e",
                            "l", "o", "\u2581"}) {
    pieces.emplace_back(piece);
    types += bytes_of<int32_t>(1);
    scores += bytes_of(--score);
  }
  GgufBuilder gguf;
  gguf.text("tokenizer.ggml.model", "llama");
  gguf.array("tokenizer.ggml.tokens", 8, pieces.size(), texts(pieces));
  gguf.array("tokenizer.ggml.token_type", 5, pieces.size(), types);
  gguf.array("tokenizer.ggml.scores", 6, pieces.size(), scores);
  gguf.u32("tokenizer.ggml.bos_token_id", 1).u32("tokenizer.ggml.eos_token_id", 2);
  return gguf;
}

TEST(GgufTokenizer, ScoresDecideTheMerges) {
  const TemporaryFolder folder;
  const auto path = folder.put("a.gguf", scored().build());
  const auto tokenizer = load_tokenizer(path);
  const auto spelt = [&](const std::string& text) {
    std::string pieces;
    for (const int32_t id : tokenizer->encode(text)) pieces += tokenizer->id_to_piece(id) + "|";
    return pieces;
  };
  EXPECT_EQ(spelt("hello"), "<s>|\u2581hello|");
  EXPECT_EQ(spelt("hell"), "<s>|\u2581he|ll|");
  EXPECT_EQ(spelt("hex"), "<s>|\u2581he|<0x78>|");
  EXPECT_EQ(spelt("h</s>h"), "<s>|\u2581h|</s>|h|");
  EXPECT_EQ(tokenizer->decode(tokenizer->encode("hello \u00e9 hello")), "hello \u00e9 hello");
  // The same again as a tokenizer.model.
  EXPECT_EQ(save_tokenizer_files(path, folder.path()),
            (std::vector<std::string>{"tokenizer.model", "tokenizer_config.json"}));
  EXPECT_EQ(load_tokenizer(folder.path())->encode("hello</s> hell"),
            tokenizer->encode("hello</s> hell"));
}

TEST(GgufTokenizer, RefusesDamage) {
  const TemporaryFolder folder;
  const auto load = [&](const GgufBuilder& gguf) {
    return load_tokenizer(folder.put("a.gguf", gguf.build()));
  };
  const auto small = [](const std::string& model, const std::vector<std::string>& pieces) {
    GgufBuilder gguf;
    gguf.text("tokenizer.ggml.model", model).text("tokenizer.ggml.pre", "gpt-2");
    gguf.array("tokenizer.ggml.tokens", 8, pieces.size(), texts(pieces));
    return gguf;
  };
  EXPECT_ERROR(FormatError, load(GgufBuilder().u32("x", 1)), "holds no tokenizer");
  EXPECT_ERROR(FormatError, load(small("bert", {"a"})),
               "'bert', which is not supported; known are gpt2 and llama");
  EXPECT_ERROR(FormatError, load(from_fixture("gpt2", "odd")),
               "known are gpt-2, smollm, starcoder, llama-bpe");
  EXPECT_ERROR(FormatError, load(small("gpt2", {"a", "a"})), "twice, at 0 and 1");
  EXPECT_ERROR(FormatError, load(small("gpt2", {"\xFF"})), "is not UTF-8");
  EXPECT_ERROR(FormatError, load(small("gpt2", {})), "has 0 tokens");
  EXPECT_ERROR(FormatError,
               load(small("gpt2", {"a", "b"}).array("tokenizer.ggml.merges", 8, 1, texts({"a b"}))),
               "is not two pieces whose union is a piece");
  EXPECT_ERROR(
      FormatError,
      load(small("gpt2", {"a"}).array("tokenizer.ggml.token_type", 5, 2, bytes_of<int64_t>(1))),
      "has 2 entries for 1 tokens");
  EXPECT_ERROR(
      FormatError,
      load(small("gpt2", {"a"}).array("tokenizer.ggml.token_type", 5, 1, bytes_of<int32_t>(9))),
      "the type 9, allowed 1 to 6");
  EXPECT_ERROR(FormatError,
               load(small("gpt2", {"a"})
                        .array("tokenizer.ggml.merges", 8, 0, "")
                        .u32("tokenizer.ggml.bos_token_id", 5)),
               "is 5, outside the vocabulary of 1");
  EXPECT_ERROR(FormatError,
               load(small("llama", {"a", "b"}).array("tokenizer.ggml.scores", 6, 1, bytes_of(1.f))),
               "has 1 entries for 2 tokens");
  EXPECT_ERROR(FormatError,
               load(small("llama", {"a"}).array("tokenizer.ggml.scores", 6, 1, bytes_of(1.f))),
               "is no usable sentencepiece model");
}

TEST(GgufTokenizerFuzz, SurvivesDamage) {
  const TemporaryFolder folder;
  const std::string good = scored(false).build();
  std::mt19937_64 random(3);
  int read = 0, refused = 0;
  for (int64_t i = 0; i < test::fuzz_iterations(3000); ++i) {
    const auto path = folder.put("a.gguf", io::mutate(good, good.size(), random));
    try {
      const auto tokenizer = load_tokenizer(path);
      tokenizer->decode(tokenizer->encode("hello <s>hell\xFF"), true);
      ++read;
    } catch (const Error& error) {
      ASSERT_EQ(std::string(error.what()).find('\n'), std::string::npos);
      ++refused;
    }
  }
  EXPECT_GT(read, 50);
  EXPECT_GT(refused, 500);
}

}  // namespace
}  // namespace qlora::data
