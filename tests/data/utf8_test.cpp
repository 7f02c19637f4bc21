#include "data/utf8.h"

#include <gtest/gtest.h>

namespace qlora::data {
namespace {

std::string repeat(int count) {
  std::string text;
  for (int i = 0; i < count; ++i) text += kReplacementCharacter;
  return text;
}

TEST(Utf8, EveryScalarValueSurvives) {
  for (char32_t code = 0; code <= 0x10FFFF; ++code) {
    if (code >= 0xD800 && code < 0xE000) continue;
    std::string text;
    append_utf8(text, code);
    ASSERT_EQ(valid_utf8_prefix(text), text.size()) << static_cast<uint32_t>(code);
    ASSERT_EQ(character_bytes(text[0]), text.size());
    size_t at = 0;
    ASSERT_EQ(next_character(text, at), code);
    ASSERT_EQ(at, text.size());
    ASSERT_EQ(replace_invalid_utf8(text), text);
  }
}

TEST(Utf8, SurrogatesAreNotText) {
  for (char32_t code = 0xD800; code < 0xE000; ++code) {
    std::string text;
    append_utf8(text, code);
    ASSERT_EQ(valid_utf8_prefix(text), 0u);
    ASSERT_EQ(replace_invalid_utf8(text), repeat(3));
  }
}

/// Unicode 15, section 3.9, tables 3-8 to 3-11; Python's errors="replace" gives the same counts.
TEST(Utf8, OneReplacementForEachMaximalSubpart) {
  const std::pair<std::string, std::string> cases[] = {
      {"\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41", repeat(8) + "A"},
      {"\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41", repeat(8) + "A"},
      {"\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42", repeat(5) + "A" + repeat(2) + "B"},
      {"\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41", repeat(4) + "A"},
      {"\xE2\x82", repeat(1)},
      {"a\xF0\x9F\x98", "a" + repeat(1)},
      {"\xF5\x80", repeat(2)},
      {"12345678\x80", "12345678" + repeat(1)},
      {"12345678\xED\x95\x9C", "12345678\xED\x95\x9C"},
      {"", ""}};
  for (const auto& [bytes, expected] : cases) EXPECT_EQ(replace_invalid_utf8(bytes), expected);
}

/// All strings of three bytes: what is kept is valid, and what is valid is kept.
TEST(Utf8, AllShortStrings) {
  for (int a = 0; a < 256; ++a) {
    for (int b = 0; b < 256; ++b) {
      for (const int c : {0x00, 0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC2, 0xE0, 0xF4}) {
        const std::string text = {static_cast<char>(a), static_cast<char>(b), static_cast<char>(c)};
        const std::string fixed = replace_invalid_utf8(text);
        ASSERT_EQ(valid_utf8_prefix(fixed), fixed.size());
        ASSERT_EQ(fixed == text, valid_utf8_prefix(text) == 3);
      }
    }
  }
}

}  // namespace
}  // namespace qlora::data
