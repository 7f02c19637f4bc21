#include "io/strict_json.h"

#include "tests/io/test_files.h"

namespace qlora::io {
namespace {

TEST(StrictJson, ReadsWhatIsSound) {
  const auto json = parse_strict_json(R"({"a": [1, {"b": 2}], "c": {"a": 3}})", "x.json");
  EXPECT_EQ(json["a"][1]["b"], 2);
  EXPECT_EQ(json["c"]["a"], 3);  // the same key in another object is no duplicate
}

TEST(StrictJson, RefusesDuplicateKeysAtAnyDepth) {
  EXPECT_MESSAGE(FormatError, parse_strict_json(R"({"a": 1, "a": 1})", "x.json"),
                 "x.json: key 'a' stands twice");
  EXPECT_MESSAGE(FormatError, parse_strict_json(R"([{"a": {"b": 1, "c": 2, "b": 3}}])", "x"),
                 "key 'b'");
  EXPECT_MESSAGE(FormatError, parse_strict_json("{\"a\": 1, \"\\u0061\": 2}", "x"), "key 'a'");
}

TEST(StrictJson, RefusesDeepNestingBeforeItCosts) {
  const std::string deep(1'000'000, '[');
  EXPECT_MESSAGE(FormatError, parse_strict_json(deep, "x"), "nests deeper than 32 levels");
  EXPECT_MESSAGE(FormatError, parse_strict_json(R"({"a": {"b": {}}})", "x", 2), "deeper than 2");
  EXPECT_NO_THROW(parse_strict_json(R"({"a": {"b": 1}})", "x", 2));
}

TEST(StrictJson, SaysWhereTextIsNotJson) {
  EXPECT_MESSAGE(FormatError, parse_strict_json("{\"a\": }", "x"),
                 "not JSON, error at byte 7 of 7");
  EXPECT_MESSAGE(FormatError, parse_strict_json("{\"a\": 1", "x"),
                 "x: not JSON, it ends too early, at byte 7");
  EXPECT_MESSAGE(FormatError, parse_strict_json("", "x"), "x: is empty");
  EXPECT_MESSAGE(FormatError, parse_strict_json(" \n", "x"), "x: is empty");
  EXPECT_MESSAGE(FormatError, parse_strict_json("{\"a\": 1e999}", "x"), "a number is too large");
  for (const char* text : {"", "{", "{} x", "NaN", "{\"a\": \"\xff\"}", "'a'"}) {
    message_of<FormatError>([&] { parse_strict_json(text, "x"); });
  }
}

}  // namespace
}  // namespace qlora::io
