#include "core/json_file.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "core/rng.h"
#include "tests/core/test_options.h"
#include "tests/support/errors.h"
#include "tests/support/temporary_folder.h"

namespace qlora {
namespace {

std::string refusal(const std::string& text, const JsonLimits& limits = {}) {
  return testing::refusal_of<FormatError>([&] { parse_json(text, "a.json", limits); });
}

TEST(ParseJson, KeepsOrderAndTypes) {
  const auto value = parse_json(
      "\xEF\xBB\xBF{\"b\": [1, -2, 2.5, true, null, \"\\u00e9\"], /* c */ \"a\": {} // d\n}", "x");
  EXPECT_EQ(value.dump(), R"({"b":[1,-2,2.5,true,null,"é"],"a":{}})");
  EXPECT_TRUE(value["b"][0].is_number_unsigned());
  EXPECT_TRUE(value["b"][1].is_number_integer());
  EXPECT_EQ(parse_json("18446744073709551615", "x").get<uint64_t>(), ~0ull);
  EXPECT_EQ(parse_json(" \"only\" ", "x"), "only");
}

TEST(ParseJson, ErrorsNameLineAndColumn) {
  EXPECT_EQ(refusal("{\n  \"a\": 1,\n  \"b\" 2\n}"),
            "[json] not JSON near \"2\" at line 3, column 7 (a.json, at /b)");
  const std::pair<const char*, const char*> cases[] = {
      {"", "a.json is empty"},
      {" \n", "a.json is empty"},
      {"{\"a\": NaN}", "line 1"},
      {"{\"a\": Infinity}", "line 1"},
      {"[1, 2,]", "line 1, column 7"},
      {"{\"a\": 1} x", "line 1, column 10"},
      {"{\"a\": 1", "the text ends too early, at line 1, column 7"},
      {"'a'", "line 1, column 1"},
      {"\"\xff\"", "line 1"},
      {"/* open", "line 1"},
      {"01", "line 1"},
      {"{\"a\": 1e999}", "no double holds the number"}};
  for (const auto& [text, part] : cases) {
    EXPECT_SAYS(refusal(text), part) << " of " << text;
  }
}

TEST(ParseJson, RefusesDuplicateKeys) {
  EXPECT_EQ(refusal(R"({"a": [{"b": 1, "b": 2}]})"),
            "[json] the key \"b\" stands twice in one object; keep one (a.json, at /a/1/b)");
  EXPECT_EQ(refusal(R"({"a": {"b": 1}, "b": {"b": 2}})"), "");
}

TEST(ParseJson, BoundsDepthAndSize) {
  const auto nested = [](int depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  EXPECT_EQ(refusal(nested(64)), "");
  EXPECT_EQ(refusal(nested(65)), "[json] nested more than 64 deep (a.json)");
  EXPECT_NE(refusal(std::string(1 << 20, '[')), "");
  EXPECT_EQ(refusal("[1234]", {.max_bytes = 5}), "[json] 6 bytes, allowed at most 5 (a.json)");
}

// 200,000 keys in one object: quadratic work would take minutes.
TEST(ParseJson, LargeObjectsAreLinear) {
  std::string text = "{";
  for (int i = 0; i < 200000; ++i)
    text += "\"k" + std::to_string(i) + "\":" + std::to_string(i) + ",";
  text.back() = '}';
  const auto value = parse_json(text, "x");
  EXPECT_EQ(value.size(), 200000u);
  EXPECT_EQ(std::prev(value.end()).value(), 199999);
}

TEST(ReadJsonFile, ReadsAndRefuses) {
  const testing::TemporaryFolder folder;
  const auto path = folder.put("good.json", "{\"a\": 1} // end");
  EXPECT_EQ(read_json_file(path)["a"], 1);
  EXPECT_THROW(read_json_file(path, {.max_bytes = 3}), FormatError);
  EXPECT_ERROR(IoError, read_json_file(folder / "missing.json"), "no such file");
  EXPECT_ERROR(IoError, read_json_file(folder / std::string(300, 'x')), "File name too long");
  std::filesystem::create_symlink(folder / "loop", folder / "loop");
  EXPECT_ERROR(IoError, read_json_file(folder / "loop"), "Too many levels of symbolic links");
  EXPECT_THROW(read_json_file(folder.path()), IoError);
}

// Mutations of a good configuration: an error or a value, never a crash, and what was accepted
// can be written and read again.
TEST(ReadFields, SurvivesMutatedFiles) {
  const std::string good = R"({"output_dir": "runs/é", "packing": false, "seed": 7, /* c */
    "dtype": "bf16", "learning_rate": 1e-4, "max_steps": 60, "lora_r": 3,
    "lora": {"lora_alpha": 0.5, "target_modules": ["q_proj"], "rank_pattern": {"a.b": 4}}})";
  const std::string pieces[] = {
      "{",       "}",       "[",    "]",      "\"",   ",",  ":",  "1e999",      "null", "-1",
      "\\u0000", "\\ud800", "\xff", "\"r\":", "true", "//", "/*", "\"lora\":{", "nan"};
  Rng rng(2026);
  int accepted = 0, refused = 0;
  for (int round = 0; round < 5000; ++round) {
    std::string text = good;
    for (uint64_t edits = 1 + rng.below(4); edits > 0; --edits) {
      const uint64_t at = rng.below(text.size() + 1);
      switch (rng.below(4)) {
        case 0:
          text.insert(at, pieces[rng.below(std::size(pieces))]);
          break;
        case 1:
          text.erase(at, rng.below(8));
          break;
        case 2:
          text.resize(at);
          break;
        default:
          text.insert(at, 1, static_cast<char>(rng.below(256)));
          break;
      }
    }
    testing::TestOptions options;
    try {
      read_fields(parse_json(text, "f"), options, "f");
      testing::TestOptions again;
      read_fields(parse_json(write_fields(options).dump(), "f"), again, "f");
      ASSERT_EQ(again, options) << text;
      ++accepted;
    } catch (const Error& error) {
      ASSERT_NO_THROW(Json(error.what()).dump()) << "the message is UTF-8: " << error.what();
      ASSERT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
      ++refused;
    }
  }
  EXPECT_GT(accepted, 50);
  EXPECT_GT(refused, 100);
}

TEST(OverrideField, SurvivesRandomAssignments) {
  const std::string pieces[] = {
      "lora",      ".",       "r",    "=",    "8",  "rank_pattern", "target_modules", ",",
      "{\"r\":1}", "[\"a\"]", "none", "\xff", "\"", "max_steps",    "seed",           "-"};
  Rng rng(7);
  int accepted = 0;
  for (int round = 0; round < 5000; ++round) {
    std::string text = rng.below(2) ? "lora.r=" : "";
    for (uint64_t parts = rng.below(6); parts > 0; --parts) {
      text += pieces[rng.below(std::size(pieces))];
    }
    testing::TestOptions options;
    try {
      override_field(options, text);
      ++accepted;
    } catch (const Error& error) {
      ASSERT_NO_THROW(Json(error.what()).dump()) << error.what();
    }
  }
  EXPECT_GT(accepted, 20);
}

}  // namespace
}  // namespace qlora
