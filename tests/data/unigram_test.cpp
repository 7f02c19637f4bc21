#include "data/unigram.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "data/bpe_tokenizer.h"
#include "tests/data/data_files.h"

namespace qlora::data {
namespace {

using nlohmann::json;
using Ids = std::vector<int32_t>;

json tiny() {
  return json::parse(R"({"model": {"type": "Unigram", "unk_id": 0, "byte_fallback": false,
    "vocab": [["<unk>", 0], ["a", -1], ["b", -1.5], ["ab", -2.6], ["abc", -9], ["c", -2], ["<0xC3>", -3], ["<0xA4>", -3]]}})");
}

Ids encode(const json& tree, const std::string& text) {
  return BpeTokenizer(read_tokenizer_json(tree.dump(), "t.json"), {}, "t.json").encode(text);
}

TEST(Unigram, TakesTheGreatestSum) {
  EXPECT_EQ(encode(tiny(), "abc"), (Ids{1, 2, 5}));  // -4.5 beats ab c (-4.6) and abc (-9)
  EXPECT_EQ(encode(tiny(), "c"), (Ids{5}));
  EXPECT_EQ(encode(tiny(), ""), (Ids{}));
  json better = tiny();
  better["model"]["vocab"][3][1] = -2.4;
  EXPECT_EQ(encode(better, "abab"), (Ids{3, 3}));
  better["model"]["vocab"][3][1] = -2.5;
  EXPECT_EQ(encode(better, "abc"), (Ids{3, 5}));  // of equals, the one found first
}

TEST(Unigram, UnknownNeighboursBecomeOneOrBytes) {
  EXPECT_EQ(encode(tiny(), "axyb\u00e4"), (Ids{1, 0, 2, 0}));
  json bytes = tiny();
  bytes["model"]["byte_fallback"] = true;
  EXPECT_EQ(encode(bytes, "a\u00e4x"), (Ids{1, 0}));  // "x" has no byte piece: the stretch is unk
  EXPECT_EQ(encode(bytes, "a\u00e4b"), (Ids{1, 6, 7, 2}));
}

TEST(Unigram, WithoutUnkAnUnknownCharacterIsAnError) {
  json tree = tiny();
  tree["model"]["unk_id"] = nullptr;
  EXPECT_EQ(encode(tree, "ab"), (Ids{1, 2}));
  EXPECT_ERROR(ValueError, encode(tree, "x"), "no piece for 'x' and no unk piece");
}

TEST(Unigram, RefusesDamage) {
  const auto refused = [](const json& vocabulary, const std::string& part) {
    json tree = tiny();
    tree["model"]["vocab"] = vocabulary;
    EXPECT_ERROR(FormatError, encode(tree, "a"), part);
  };
  const auto entry = [](const json& piece) { return json::array({{"<unk>", 0}, piece}); };
  refused(entry({"a"}), "no pair of text and score");
  refused(entry({"a", "b"}), "no pair of text and score");
  refused(entry({1, "b"}), "no pair of text and score");
  refused(entry({"a", 1, 2}), "no pair of text and score");
  refused(entry(json::array()), "no pair of text and score");
  refused(entry({"a", nullptr}), "a piece whose score is no number");
  refused(entry({"a", json::array()}), "a list inside a piece");
  refused(entry({"<unk>", 1}), "twice");
  refused(json::array({1}), "no pair of text and score");
  refused(json::array({"a"}), "no pair of text and score");
  json tree = tiny();
  tree["model"]["unk_id"] = 8;
  EXPECT_ERROR(FormatError, encode(tree, "a"), "model.unk_id is 8, outside the vocabulary of 8");
  tree = tiny();
  tree["pre_tokenizer"] = {{"type", "ByteLevel"}};
  EXPECT_ERROR(FormatError, encode(tree, "a"), "a Unigram model with the pre_tokenizer ByteLevel");
}

}  // namespace
}  // namespace qlora::data
