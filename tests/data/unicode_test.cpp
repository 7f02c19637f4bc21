#include "data/unicode.h"

#include <gtest/gtest.h>

#include "data/utf8.h"

namespace qlora::data {
namespace {

std::string nfc(std::string_view text) {
  return normalize(text, NormalForm::kNfc);
}

TEST(Unicode, OtherFormsOfKnownTexts) {  // UAX 15, figures 3 to 6
  const auto form = [](const char* text, NormalForm to) { return normalize(text, to); };
  EXPECT_EQ(form("\u00c5\u1e69", NormalForm::kNfd), "A\u030as\u0323\u0307");
  EXPECT_EQ(form("\ufb01\u2460", NormalForm::kNfkd), "fi1");
  EXPECT_EQ(form("\u1e9b\u0323", NormalForm::kNfkc), "\u1e69");
  EXPECT_EQ(form("\u1e9b\u0323", NormalForm::kNfkd), "s\u0323\u0307");
  EXPECT_EQ(form("\u3300 \uff21", NormalForm::kNfkc), "\u30a2\u30d1\u30fc\u30c8 A");
  EXPECT_EQ(lower_case("\u0391\u03a3 \u0130 \u1c89X"), "\u03b1\u03c3 i\u0307 \u1c8ax");
  EXPECT_TRUE(is_word_member('_') && is_word_member(0x301) && !is_word_member('-'));
  EXPECT_TRUE(is_punctuation('$') && is_punctuation(0x3002) && !is_punctuation('a'));
}

TEST(Unicode, NfcOfKnownTexts) {
  const std::pair<const char*, const char*> cases[] = {
      {"", ""},
      {"plain", "plain"},
      {"e\u0301", "\u00e9"},
      {"\u00e9", "\u00e9"},
      {"q\u0307\u0323", "q\u0323\u0307"},  // marks in their order
      {"\u1e9b\u0323", "\u1e9b\u0323"},    // UAX 15, figure 6
      {"\u212b", "\u00c5"},                // a singleton
      {"\u1100\u1161\u11a8", "\uac01"},    // Hangul
      {"\uac00\u11a8", "\uac01"},
      {"\uac01\u11a8", "\uac01\u11a8"},  // a closed syllable takes no more
      {"\u0958", "\u0915\u093c"},        // a composition exclusion
      {"a\u0315\u0300\u05ae\u0300b", "\u00e0\u05ae\u0300\u0315b"},
      {"\u0300a", "\u0300a"},  // a mark without a letter
      {"\u0344", "\u0308\u0301"},
      {"A\u030a\u0301", "\u01fa"},
      {"\U0001d15e", "\U0001d157\U0001d165"}};
  for (const auto& [text, expected] : cases) EXPECT_EQ(nfc(text), expected) << text;
}

TEST(Unicode, NfcOfNfcChangesNothing) {
  for (char32_t code = 1; code <= 0x10FFFF; ++code) {
    if (code >= 0xD800 && code < 0xE000) continue;
    std::string text = "a\u0316";
    append_utf8(text, code);
    const std::string once = nfc(text);
    ASSERT_EQ(nfc(once), once) << static_cast<uint32_t>(code);
  }
}

TEST(Unicode, Properties) {
  int spaces = 0, numbers = 0;
  for (char32_t code = 0; code <= 0x10FFFF; ++code) {
    spaces += is_white_space(code);
    numbers += is_numeric(code);
  }
  EXPECT_EQ(spaces, 25);     // White_Space
  EXPECT_EQ(numbers, 1924);  // Nd, Nl, No of Unicode 17, as the reference has it
  EXPECT_FALSE(is_white_space(0x180E));
  EXPECT_TRUE(is_numeric(0xB2) && is_numeric(0x2167) && is_numeric(0x11DE0));
  EXPECT_TRUE(is_word_character('_') && is_word_character(0xAC00) && is_word_character(0x301));
  EXPECT_FALSE(is_word_character('-') || is_word_character(0x1F600) || is_word_character(0xB2));
}

TEST(Unicode, NewerMembersAreRanges) {
  EXPECT_NE(newer_members("L").find("\\x{31350}-\\x{323af}"), std::string::npos);
  EXPECT_NE(newer_members("Lu").find("\\x{1c89}"), std::string::npos);
  EXPECT_EQ(newer_members("Lu").find("\\x{1c8a}"), std::string::npos);
  EXPECT_EQ(newer_members("Zs"), "");
}

}  // namespace
}  // namespace qlora::data
