#include "core/text.h"

#include <gtest/gtest.h>

namespace qlora {
namespace {

TEST(CountText, GroupsThousands) {
  EXPECT_EQ(count_text(0), "0");
  EXPECT_EQ(count_text(999), "999");
  EXPECT_EQ(count_text(1000), "1,000");
  EXPECT_EQ(count_text(39976960), "39,976,960");
  EXPECT_EQ(count_text(-1), "-1");
  EXPECT_EQ(count_text(-999), "-999");
  EXPECT_EQ(count_text(-1000), "-1,000");
  EXPECT_EQ(count_text(INT64_MIN), "-9,223,372,036,854,775,808");
}

TEST(MarkupText, EscapesMarksAndKeepsTheRest) {
  EXPECT_EQ(markup_text("a <b> & \"c\"\n\té"), "a &lt;b&gt; &amp; &quot;c&quot;  é");
}

TEST(TableText, IsOneLineWithoutMarks) {
  EXPECT_EQ(table_text("a|b \"c\" \\ `d` <e>\nf"), "a b  c     d   e> f");
}

}  // namespace
}  // namespace qlora
