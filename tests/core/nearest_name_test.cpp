#include "core/nearest_name.h"

#include <gtest/gtest.h>

namespace qlora {
namespace {

TEST(EditDistance, CountsEdits) {
  EXPECT_EQ(edit_distance("", ""), 0);
  EXPECT_EQ(edit_distance("abc", ""), 3);
  EXPECT_EQ(edit_distance("", "abc"), 3);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3);
  EXPECT_EQ(edit_distance("rnak", "rank"), 1);  // a swap is one edit
  EXPECT_EQ(edit_distance("ca", "abc"), 3);     // no edit inside a swap
  EXPECT_EQ(edit_distance("Learning-Rate", "learning_rate"), 0);
}

// Every pair of words of up to three letters of {a, b, c}: a metric but for the triangle, which
// optimal string alignment does not promise.
TEST(EditDistance, IsSymmetricAndZeroOnEqualsOnly) {
  std::vector<std::string> words = {""};
  for (size_t i = 0; i < words.size() && words[i].size() < 3; ++i) {
    for (const char c : {'a', 'b', 'c'}) words.push_back(words[i] + c);
  }
  ASSERT_EQ(words.size(), 40u);
  for (const auto& a : words) {
    for (const auto& b : words) {
      EXPECT_EQ(edit_distance(a, b), edit_distance(b, a));
      EXPECT_EQ(edit_distance(a, b) == 0, a == b);
      EXPECT_LE(edit_distance(a, b), static_cast<int>(std::max(a.size(), b.size())));
    }
  }
}

TEST(NearestName, TakesTheNearestWithinAThird) {
  const std::vector<std::string> names = {"learning_rate", "warmup_ratio", "warmup_steps", "r"};
  EXPECT_EQ(nearest_name("learnng_rate", names), "learning_rate");
  EXPECT_EQ(nearest_name("warmup_step", names), "warmup_steps");
  EXPECT_EQ(nearest_name("R", names), "r");
  EXPECT_EQ(nearest_name("x", names), std::nullopt);
  EXPECT_EQ(nearest_name("gradient", names), std::nullopt);
  EXPECT_EQ(nearest_name("", names), std::nullopt);
  EXPECT_EQ(nearest_name("anything", {}), std::nullopt);
  EXPECT_EQ(nearest_name("ab", {"ac", "ab"}), "ab");
  EXPECT_EQ(nearest_name(std::string(1 << 20, 'a'), names), std::nullopt);
}

}  // namespace
}  // namespace qlora
