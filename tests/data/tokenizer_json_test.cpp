#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <random>

#include "data/bpe_tokenizer.h"
#include "tests/data/corpus.h"
#include "tests/data/data_files.h"
#include "tests/io/mutate.h"
#include "tests/support/fuzz.h"

namespace qlora::data {
namespace {

using nlohmann::json;

json tiny() {
  return json::parse(R"({
    "added_tokens": [{"id": 4, "content": "<s>", "special": true, "normalized": false}],
    "normalizer": null, "pre_tokenizer": null, "post_processor": null,
    "decoder": {"type": "Fuse"},
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "<unk>": 3}, "merges": ["a b"]}})");
}

std::unique_ptr<BpeTokenizer> load(const std::string& text, const TokenizerConfig& config = {}) {
  return std::make_unique<BpeTokenizer>(read_tokenizer_json(text, "t.json"), config, "t.json");
}

/// The tiny tokenizer with one member changed.
template <class Change>
std::unique_ptr<BpeTokenizer> changed(const Change& change) {
  json tree = tiny();
  change(tree);
  return load(tree.dump());
}

template <class Change>
void expect_refused(const Change& change, const std::string& part) {
  EXPECT_ERROR(FormatError, changed(change), part);
}

using Ids = std::vector<int32_t>;

TEST(TokenizerJson, ReadsMergesAsTextsAndAsPairs) {
  EXPECT_EQ(load(tiny().dump())->encode("abba<s>"), (Ids{2, 1, 0, 4}));
  EXPECT_EQ(changed([](json& t) {
              t["model"]["merges"] = json::array({json::array({"a", "b"})});
            })->encode("abba"),
            (Ids{2, 1, 0}));
  // Merges before the vocabulary, and no type, as in old files.
  EXPECT_EQ(
      load(R"({"model": {"merges": ["a b"], "vocab": {"a": 0, "b": 1, "ab": 7}}})")->encode("ab"),
      (Ids{7}));
}

TEST(TokenizerJson, BpeNeedsMergesEvenIfThereAreNone) {
  expect_refused([](json& t) { t["model"].erase("merges"); }, "has no list 'merges'");
  expect_refused([](json& t) { t["model"]["merges"] = nullptr; }, "has no list 'merges'");
  EXPECT_EQ(changed([](json& t) { t["model"]["merges"] = json::array(); })->encode("ab"),
            (Ids{0, 1}));
}

TEST(TokenizerJson, WritesWhatItReads) {
  for (const char* name : {"gpt2", "llama3", "llama2", "metaspace", "qwen2"}) {
    const auto path = fixture("tokenizers") / name / "tokenizer.json";
    const BpeSpec spec = read_tokenizer_json(io::read_file(path), "t.json");
    const auto again = load(write_tokenizer_json(spec));
    const auto first = load(io::read_file(path));
    for (const auto& text : test::tricky_texts())
      ASSERT_EQ(first->encode(text), again->encode(text));
  }
}

TEST(TokenizerJson, RefusesUnknownComponentsByName) {
  expect_refused([](json& t) { t["model"]["type"] = "WordPiece"; },
                 "'WordPiece' is not supported; known are BPE");
  expect_refused(
      [](json& t) {
        t["model"]["type"] = "Unigram";
        t["model"]["vocab"] = json::array();
      },
      "has no vocabulary");
  expect_refused([](json& t) { t["model"]["type"] = "Unigram"; }, "lacks them");
  expect_refused(
      [](json& t) {
        t["normalizer"] = {{"type", "Precompiled"}};
      },
      "'Precompiled' is not supported; known are NFC");
  expect_refused(
      [](json& t) {
        t["pre_tokenizer"] = {{"type", "UnicodeScripts"}};
      },
      "'UnicodeScripts' is not supported; known are BertPreTokenizer");
  expect_refused(
      [](json& t) {
        t["post_processor"] = {{"type", "BertProcessing"}};
      },
      "'BertProcessing'");
  expect_refused([](json& t) { t["decoder"] = {{"type", "WordPiece"}}; }, "known are ByteFallback");
  expect_refused([](json& t) { t["model"]["continuing_subword_prefix"] = "##"; },
                 "continuing_subword_prefix");
  expect_refused([](json& t) { t["model"]["end_of_word_suffix"] = "</w>"; }, "end_of_word_suffix");
}

TEST(TokenizerJson, RefusesDamage) {
  expect_refused([](json& t) { t = json::array(); }, "no object 'model'");
  expect_refused([](json& t) { t.erase("model"); }, "no object 'model'");
  expect_refused(
      [](json& t) {
        t["model"]["vocab"] = json::object();
        t["model"]["merges"] = json::array();
      },
      "no vocabulary");
  expect_refused(
      [](json& t) {
        t["model"].erase("type");
        t["model"].erase("merges");
      },
      "'unnamed'");
  expect_refused([](json& t) { t["model"]["vocab"]["b"] = 0; }, "twice");
  expect_refused([](json& t) { t["model"]["vocab"]["b"] = -1; }, "allowed 0 to 4194303");
  expect_refused([](json& t) { t["model"]["vocab"]["b"] = 4194304; }, "allowed 0 to 4194303");
  expect_refused([](json& t) { t["model"]["vocab"]["b"] = 1.5; }, "allowed 0 to");
  expect_refused([](json& t) { t["model"]["vocab"]["b"] = "1"; }, "allowed 0 to");
  expect_refused([](json& t) { t["model"]["vocab"]["b"] = nullptr; },
                 "a piece whose id is no number");
  expect_refused([](json& t) { t["model"]["vocab"]["b"] = json::array(); },
                 "a list inside the vocabulary");
  expect_refused([](json& t) { t["model"]["vocab"]["b"] = json::object(); }, "an object inside");
  expect_refused([](json& t) { t["model"]["merges"] = {"a b c"}; },
                 "two pieces with a space between");
  expect_refused([](json& t) { t["model"]["merges"] = {"ab"}; }, "two pieces with a space between");
  expect_refused([](json& t) { t["model"]["merges"] = {"b a"}; },
                 "a piece that the vocabulary lacks");
  expect_refused([](json& t) { t["model"]["merges"] = {7}; },
                 "a merge that is neither text nor pair");
  expect_refused(
      [](json& t) {
        t["model"]["merges"] = json::array({json::array({"a", "b", "a"})});
      },
      "a merge that is no pair");
  expect_refused([](json& t) { t["model"]["merges"] = json::array({json::array({"a"})}); },
                 "a merge that is no pair");
  expect_refused(
      [](json& t) { t["model"]["merges"] = json::array({json::array({json::array()})}); },
      "neither text nor pair");
  expect_refused([](json& t) { t["model"]["unk_token"] = "?"; }, "is not in the vocabulary");
  expect_refused([](json& t) { t["model"]["byte_fallback"] = 1; }, "allowed true or false");
  expect_refused([](json& t) { t["added_tokens"] = 1; }, "lacks its list");
  expect_refused([](json& t) { t["added_tokens"][0].erase("content"); },
                 "lacks its text 'content'");
  expect_refused([](json& t) { t["added_tokens"][0]["id"] = "4"; }, "lacks an id");
  expect_refused([](json& t) { t["added_tokens"][0]["id"] = 4194304; }, "lacks an id");
  expect_refused([](json& t) { t["added_tokens"][0]["id"] = 1; }, "but the vocabulary says");
  expect_refused([](json& t) { t["added_tokens"][0]["content"] = "a"; },
                 "but the vocabulary says 0");
  expect_refused([](json& t) { t["added_tokens"][1] = t["added_tokens"][0]; }, "is there twice");
  expect_refused([](json& t) { t["normalizer"] = 1; }, "expected an object");
  expect_refused(
      [](json& t) {
        t["normalizer"] = {{"type", "Prepend"}};
      },
      "lacks its text 'prepend'");
  expect_refused(
      [](json& t) {
        t["normalizer"] = {{"type", "Replace"}, {"content", "x"}};
      },
      "lacks its pattern");
  expect_refused(
      [](json& t) {
        t["pre_tokenizer"] = {{"type", "Sequence"}};
      },
      "lacks its list 'pretokenizers'");
  expect_refused(
      [](json& t) {
        t["pre_tokenizer"] = {{"type", "Split"}, {"pattern", {{"String", ""}}}};
      },
      "an empty pattern");
  expect_refused(
      [](json& t) {
        t["pre_tokenizer"] = {
            {"type", "Split"}, {"pattern", {{"String", "x"}}}, {"behavior", "Odd"}};
      },
      "known are Removed");
  expect_refused(
      [](json& t) {
        t["pre_tokenizer"] = {{"type", "Metaspace"}, {"replacement", "ab"}};
      },
      "expected one character");
  expect_refused(
      [](json& t) {
        t["pre_tokenizer"] = {{"type", "Metaspace"}, {"replacement", "_"}, {"prepend_scheme", "x"}};
      },
      "known are always, first, never");
  expect_refused(
      [](json& t) {
        t["pre_tokenizer"] = {{"type", "Sequence"},
                              {"pretokenizers", {{{"type", "ByteLevel"}}, {{"type", "Digits"}}}}};
      },
      "follows ByteLevel");
  expect_refused(
      [](json& t) {
        t["decoder"] = {{"type", "Strip"}, {"content", " "}};
      },
      "lacks its count 'start'");
  expect_refused(
      [](json& t) {
        t["decoder"] = {{"type", "Strip"}, {"content", ""}, {"start", 1}, {"stop", 0}};
      },
      "no character");
  EXPECT_ERROR(FormatError, load(R"({"a": 1, "a": 2})"), "stands twice");
  EXPECT_ERROR(FormatError, load(tiny().dump() + "x"), "is not JSON");
  EXPECT_ERROR(FormatError, load("{\"model\": {\"vocab\": {\"\xff\": 1}}}"), "is not JSON");
}

// The ids of the steps against texts that the model alone, without them, would have to see.
TEST(TokenizerJson, NormalizersAndCutsByClass) {
  const auto pieces = [](const json& normalizer, const json& pre_tokenizer,
                         const std::string& text) {
    json tree = {
        {"normalizer", normalizer},
        {"pre_tokenizer", pre_tokenizer},
        {"model", {{"type", "BPE"}, {"vocab", json::object()}, {"merges", json::array()}}}};
    // Letters merge into words where nothing cuts them, so that cuts can be seen.
    for (const char* piece : {"a", "b", ".", " ", "aa", "ab", "a.", "a ", "e", "\u0301", "-"}) {
      tree["model"]["vocab"][piece] = tree["model"]["vocab"].size();
    }
    tree["model"]["merges"] = {"a a", "a b", "a ."};
    const auto tokenizer = load(tree.dump());
    std::string out;
    for (const int32_t id : tokenizer->encode(text)) out += tokenizer->id_to_piece(id) + "|";
    return out;
  };
  const auto type = [](const char* name) { return json{{"type", name}}; };
  EXPECT_EQ(pieces(type("Lowercase"), nullptr, "AB"), "ab|");
  EXPECT_EQ(pieces(type("NFKC"), nullptr, "\uff41\uff42"), "ab|");
  EXPECT_EQ(pieces(type("NFD"), nullptr, "\u00e9"), "e|\u0301|");
  EXPECT_EQ(pieces(type("NFKD"), nullptr, "\u00e9\u00aa"), "e|\u0301|a|");
  EXPECT_EQ(
      pieces({{"type", "Strip"}, {"strip_left", true}, {"strip_right", false}}, nullptr, "  a "),
      "a| |");
  EXPECT_EQ(pieces(type("Strip"), nullptr, " \u3000"), "");
  EXPECT_EQ(pieces(nullptr, type("Whitespace"), "ab a.--"), "ab|a|.|-|-|");
  EXPECT_EQ(pieces(nullptr, type("WhitespaceSplit"), "ab a."), "ab|a.|");
  EXPECT_EQ(pieces(nullptr, type("Punctuation"), "a.a"), "a|.|a|");
  EXPECT_EQ(pieces(nullptr, {{"type", "Punctuation"}, {"behavior", "MergedWithPrevious"}}, "aa."),
            "aa|.|");
  EXPECT_EQ(pieces(nullptr, type("BertPreTokenizer"), "a. ab"), "a|.|ab|");
  EXPECT_EQ(pieces(nullptr, {{"type", "CharDelimiterSplit"}, {"delimiter", "b"}}, "aba"), "a|a|");
  EXPECT_ERROR(FormatError,
               pieces(nullptr, {{"type", "CharDelimiterSplit"}, {"delimiter", ""}}, "a"),
               "an empty delimiter");
  EXPECT_ERROR(FormatError, pieces(nullptr, {{"type", "Punctuation"}, {"behavior", "Odd"}}, "a"),
               "known are Removed");
}

TEST(TokenizerJson, RefusesEndlessNesting) {
  EXPECT_ERROR(FormatError, load(std::string(100'000, '[')), "64 levels");
  json nested = {{"type", "NFC"}};
  for (int i = 0; i < 12; ++i) nested = {{"type", "Sequence"}, {"normalizers", {nested}}};
  json tree = tiny();
  tree["normalizer"] = nested;
  EXPECT_ERROR(FormatError, load(tree.dump()), "nests deeper than 8");
}

TEST(TokenizerJson, RefusesTemplatesThatDoNotFit) {
  const json text = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
  const json bos = {{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}};
  const auto with = [&](const json& single, const json& tokens) {
    json tree = tiny();
    tree["post_processor"] = {
        {"type", "TemplateProcessing"}, {"single", single}, {"special_tokens", tokens}};
    return load(tree.dump());
  };
  const json known = {{"<s>", {{"ids", json::array({4})}}}};
  EXPECT_EQ(with({bos, text, bos}, known)->encode("a"), (Ids{4, 0, 4}));
  EXPECT_ERROR(FormatError, with(json::array({bos}), known), "lacks the text");
  EXPECT_ERROR(FormatError, with({text, text}, known), "holds the text twice");
  EXPECT_ERROR(FormatError, with({text, bos}, json::object()), "its special_tokens lack");
  EXPECT_ERROR(FormatError, with({text, 1}, known), "neither Sequence nor SpecialToken");
  EXPECT_ERROR(FormatError, with({text, bos}, {{"<s>", {{"ids", json::array({-4})}}}}),
               "an id that is not");
  EXPECT_ERROR(FormatError, with({text, bos}, {{"<s>", {{"ids", json::array({5})}}}}),
               "outside the vocabulary of 5");
}

TEST(TokenizerConfigFiles, GiveRolesAndTemplates) {
  const TemporaryFolder folder;
  folder.put("tokenizer.json", tiny().dump());
  folder.put("tokenizer_config.json",
             R"({"bos_token": {"content": "<s>"}, "pad_token": null, "add_bos_token": true,
                 "added_tokens_decoder": {"5": {"content": "<x>", "special": true}},
                 "chat_template": [{"name": "tool", "template": "T"}, {"name": "default", "template": "D"}]})");
  folder.put("special_tokens_map.json", R"({"eos_token": "<x>", "bos_token": "a"})");
  folder.put("added_tokens.json", R"({"<y>": 9})");
  auto tokenizer = load_tokenizer(folder.path());
  EXPECT_EQ(tokenizer->special().bos, 4);
  EXPECT_EQ(tokenizer->special().eos, 5);
  EXPECT_EQ(tokenizer->vocab_size(), 10);
  EXPECT_EQ(tokenizer->id_to_piece(7), "");  // a hole
  EXPECT_EQ(tokenizer->chat_template(), "D");
  // With a tokenizer.json its post-processor alone decides, as in transformers.
  EXPECT_FALSE(tokenizer->add_bos());
  EXPECT_EQ(tokenizer->encode("a<y>"), (Ids{0, 9}));
  folder.put("chat_template.jinja", "J");
  EXPECT_EQ(load_tokenizer(folder.path())->chat_template(), "J");
}

TEST(TokenizerConfigFiles, RefuseDamage) {
  const TemporaryFolder folder;
  folder.put("tokenizer.json", tiny().dump());
  const auto with = [&](const std::string& text) {
    folder.put("tokenizer_config.json", text);
    return load_tokenizer(folder.path());
  };
  EXPECT_ERROR(FormatError, with("[]"), "expected an object");
  EXPECT_ERROR(FormatError, with(R"({"bos_token": 1})"), "expected a text");
  EXPECT_ERROR(FormatError, with(R"({"bos_token": {}})"), "lacks its text 'content'");
  EXPECT_ERROR(FormatError, with(R"({"bos_token": "?"})"),
               "the bos token '?' is not in the vocabulary");
  EXPECT_ERROR(FormatError, with(R"({"add_bos_token": 1})"), "allowed true or false");
  EXPECT_ERROR(FormatError, with(R"({"chat_template": 1})"), "expected a text or a list");
  EXPECT_ERROR(FormatError, with(R"({"added_tokens_decoder": 1})"), "expected an object");
  EXPECT_ERROR(FormatError, with(R"({"added_tokens_decoder": {"x": {}}})"), "is not 0 to");
  EXPECT_ERROR(FormatError, with(R"({"added_tokens_decoder": {"7": 1}})"), "expected an object");
  with("{}");
  folder.put("added_tokens.json", R"({"<y>": -1})");
  EXPECT_ERROR(FormatError, with("{}"), "is not 0 to");
}

/// A fixture, small enough for many rounds: the added tokens, the components, and a few pieces.
std::string small_fixture(const char* name) {
  json tree = json::parse(io::read_file(fixture("tokenizers") / name / "tokenizer.json"));
  json vocabulary = json::object();
  for (const auto& [piece, id] : tree["model"]["vocab"].items()) {
    if (id < 300) vocabulary[piece] = id;
  }
  tree["model"]["vocab"] = vocabulary;
  tree["model"]["merges"] = json::array();
  return tree.dump();
}

/// The model and the components that no fixture has.
constexpr const char* kOtherComponents = R"({
  "added_tokens": [{"id": 5, "content": "<s>", "special": true, "normalized": false}],
  "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "NFD"}, {"type": "NFKD"},
    {"type": "Lowercase"}, {"type": "Strip", "strip_left": true, "strip_right": true}]},
  "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Whitespace"}, {"type": "WhitespaceSplit"},
    {"type": "Punctuation", "behavior": "Contiguous"}, {"type": "CharDelimiterSplit", "delimiter": "z"},
    {"type": "BertPreTokenizer"}]},
  "model": {"type": "Unigram", "unk_id": 0, "byte_fallback": true,
    "vocab": [["<unk>", 0], ["a", -1.5], ["x", -2], ["<0x0A>", -3], ["12", -4.25]]}})";

TEST(TokenizerJsonFuzz, SurvivesDamage) {
  std::mt19937_64 random(1);
  int read = 0, refused = 0;
  for (const std::string& good : {small_fixture("smollm"), small_fixture("llama2"),
                                  small_fixture("metaspace"), std::string(kOtherComponents)}) {
    ASSERT_NO_THROW(load(good));
    for (int64_t i = 0; i < test::fuzz_iterations(5000); ++i) {
      try {
        const auto tokenizer = load(io::mutate(good, good.size(), random));
        tokenizer->decode(tokenizer->encode("a <s> \u2581[strip] \xFF<0x0A> 12;3, x=y-z"), true);
        ++read;
      } catch (const Error& error) {
        ASSERT_EQ(std::string(error.what()).find('\n'), std::string::npos);
        ++refused;
      }
    }
  }
  EXPECT_GT(read, 100);
  EXPECT_GT(refused, 1000);
}

TEST(TokenizerFuzz, EncodersTakeAnyBytes) {
  std::mt19937_64 random(2);
  for (const char* name :
       {"gpt2", "llama3", "qwen2", "llama2", "metaspace", "sp_bpe", "sp_unigram"}) {
    const auto tokenizer = fixture_tokenizer(name);
    std::string pool;
    for (const auto& text : test::tricky_texts()) pool += text;
    for (int64_t i = 0; i < test::fuzz_iterations(300); ++i) {
      const std::string text =
          io::mutate(pool.substr(random() % (pool.size() - 300), 300), 300, random);
      const auto ids = tokenizer->encode(text);
      for (const int32_t id : ids) ASSERT_TRUE(id >= 0 && id < tokenizer->vocab_size());
      tokenizer->decode(ids);
    }
  }
}

}  // namespace
}  // namespace qlora::data
