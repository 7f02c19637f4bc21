#include "io/foreign_text.h"

#include "tests/io/test_files.h"

namespace qlora::io {
namespace {

TEST(ForeignText, QuotesInOneLine) {
  EXPECT_EQ(quote("model.norm.weight"), "'model.norm.weight'");
  EXPECT_EQ(quote(std::string("a\n\0\x7f\xff", 5)), "'a\\x0a\\x00\\x7f\\xff'");
  EXPECT_EQ(quote(std::string(500, 'x')), fmt::format("'{}'…", std::string(80, 'x')));
  EXPECT_EQ(quote(""), "''");
}

/// UTF-8 by its definition: encode every code point, and look the string up.
std::string encode(uint32_t point) {
  std::string text;
  if (point < 0x80) {
    text += static_cast<char>(point);
  } else if (point < 0x800) {
    text += static_cast<char>(0xc0 | point >> 6);
    text += static_cast<char>(0x80 | (point & 63));
  } else if (point < 0x10000) {
    text += static_cast<char>(0xe0 | point >> 12);
    text += static_cast<char>(0x80 | (point >> 6 & 63));
    text += static_cast<char>(0x80 | (point & 63));
  } else {
    text += static_cast<char>(0xf0 | point >> 18);
    text += static_cast<char>(0x80 | (point >> 12 & 63));
    text += static_cast<char>(0x80 | (point >> 6 & 63));
    text += static_cast<char>(0x80 | (point & 63));
  }
  return text;
}

TEST(ForeignText, AcceptsEveryCodePointAndNoSurrogate) {
  for (uint32_t point = 0; point < 0x120000; ++point) {
    const bool valid = point < 0x110000 && (point < 0xd800 || point >= 0xe000);
    ASSERT_EQ(is_utf8("a" + encode(point) + "b"), valid) << point;
  }
}

TEST(ForeignText, RefusesOverlongCutAndStrayBytes) {
  for (const char* text :
       {"\xc0\x80", "\xc1\xbf", "\xe0\x80\x80", "\xe0\x9f\xbf", "\xf0\x80\x80\x80",
        "\xf0\x8f\xbf\xbf", "\x80", "\xbf", "\xc2", "\xe2\x82", "\xf0\x9f\x98", "\xc2 ",
        "\xf5\x80\x80\x80", "\xff", "\xe2\x82z", "\xf0\x9f\x98z"}) {
    EXPECT_FALSE(is_utf8(text));
    EXPECT_FALSE(is_utf8(std::string("ok") + text));
  }
  EXPECT_TRUE(is_utf8(""));
}

}  // namespace
}  // namespace qlora::io
