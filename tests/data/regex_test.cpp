#include "data/regex.h"

#include <gtest/gtest.h>

#include <vector>

#include "tests/data/data_files.h"

namespace qlora::data {
namespace {

std::vector<std::string> matches(const std::string& pattern, std::string_view text) {
  const Regex regex(pattern);
  std::vector<std::string> found;
  Regex::Match match;
  for (size_t at = 0; regex.find(text, at, match); at = match.end) {
    found.emplace_back(text.substr(match.begin, match.end - match.begin));
  }
  return found;
}

using Strings = std::vector<std::string>;

TEST(Regex, MeansWhatTheReferenceMeans) {
  EXPECT_EQ(matches(R"(\s+)", "a \u00a0b\u180ec\u3000"), (Strings{" \u00a0", "\u3000"}));
  EXPECT_EQ(matches(R"(\S+)", "a \u180eb"), (Strings{"a", "\u180eb"}));
  EXPECT_EQ(matches(R"([\S]+)", "a \u180eb"), (Strings{"a", "\u180eb"}));
  EXPECT_EQ(matches(R"(\p{L}+)", "x\u1c89y1"), (Strings{"x\u1c89y"}));  // Unicode 16
  EXPECT_EQ(matches(R"([^\s\p{L}]+)", "x\u1c89 12"), (Strings{"12"}));
  EXPECT_EQ(matches(R"(\P{L}+)", "x\u1c89 12"), (Strings{" 12"}));
  EXPECT_EQ(matches(R"(\p{^L}+)", "x 12"), (Strings{" 12"}));
  EXPECT_EQ(matches(R"(\d+)", "a1\u0663b"), (Strings{"1\u0663"}));
  EXPECT_EQ(matches(R"(\D+)", "a1\u0663b"), (Strings{"a", "b"}));
  EXPECT_EQ(matches(R"((?i:'s))", "'s'S'\u017f"), (Strings{"'s", "'S", "'\u017f"}));
  EXPECT_EQ(matches(R"(\s+(?!\S)|\s+)", "a   b  "), (Strings{"  ", " ", "  "}));
  EXPECT_EQ(matches(R"(\x41\x{42}\u0043)", "xABC"), (Strings{"ABC"}));
  EXPECT_EQ(matches(R"([\]\-x]+)", "a]-x"), (Strings{"]-x"}));
  EXPECT_EQ(matches("^a", "a\na\n"), (Strings{"a", "a"}));  // Ruby: at every line
  EXPECT_EQ(matches(".+", "a\nb"), (Strings{"a", "b"}));
  EXPECT_EQ(matches("(?<=b)a", "aba"), (Strings{"a"}));  // look-behind sees what was passed
}

TEST(Regex, RefusesWhatTheEnginesReadDifferently) {
  for (const char* pattern :
       {R"(\w+)",  R"(\bx)",      R"(\h)",         R"(\R)",         R"(\p{Han})", R"(\p{Mn})",
        R"(\pL)",  R"(\p{L)",     R"([a&&b])",     R"([a[b]])",     R"([]a])",    R"([\P{L}])",
        R"([\D])", R"([a)",       R"(\x{110000})", R"(\x{D800})",   R"(\x4)",     R"(\u12)",
        R"(\xFF)", R"((?P<n>a))", R"((?#c)a)",     R"((*ACCEPT)a)", R"(a{,3})",   R"(\p{N}{1,3}+)",
        "a\\",     R"(\1)",       R"(\Ka)"}) {
    EXPECT_ERROR(FormatError, Regex{pattern}, "which is not supported");
  }
}

TEST(Regex, RefusesWhatDoesNotCompileOrSplitsNothing) {
  EXPECT_ERROR(FormatError, Regex{"(a"}, "is not valid");
  EXPECT_ERROR(FormatError, Regex{std::string(300, '(') + "a" + std::string(300, ')')},
               "is not valid");
  EXPECT_ERROR(FormatError, Regex{"a*"}, "may match the empty text");
  EXPECT_ERROR(FormatError, Regex{"a|(?=b)"}, "may match the empty text");
}

TEST(Regex, LongRunsNeitherCrashNorStall) {
  const std::string spaces(2'000'000, ' ');
  EXPECT_EQ(matches(R"(\s+(?!\S)|\s+)", spaces + "x").size(), 2u);
  EXPECT_EQ(matches(R"((?:a|b)+)", std::string(300'000, 'a')).size(), 1u);
}

TEST(Regex, GivesUpWithAnErrorWhereMemoryEnds) {
  // Every repetition of the group is kept for backtracking: more than the engine may hold.
  const Regex regex(R"((?:(a|b|c)(?=[a-c])|(d))+e)");
  std::string text;
  text.resize(30'000'000, 'a');
  Regex::Match match;
  EXPECT_ERROR(ValueError, regex.find(text, 0, match), "split the text into shorter lines");
}

}  // namespace
}  // namespace qlora::data
