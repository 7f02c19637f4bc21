#include "trainer/loss_curve.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <sstream>
#include <string>
#include <vector>

#include "core/error.h"
#include "tests/support/temporary_folder.h"

namespace qlora::trainer {
namespace {

using testing::read_text;
using testing::TemporaryFolder;
using testing::write_text;

std::string step_line(int step, const std::string& loss) {
  return R"({"time":"t","kind":"step","step":)" + std::to_string(step) + R"(,"loss":)" + loss +
         "}\n";
}

TEST(LossHistory, ReadsStepsAndEvaluations) {
  const TemporaryFolder folder;
  write_text(folder / "log.jsonl",
             step_line(1, "3.5") +
                 R"({"kind":"notice","text":"step"})"
                 "\n" +
                 step_line(2, "null") + "[1,2]\n{\"kind\":\"step\",\"step\":\"x\",\"loss\":1}\n" +
                 "{\"kind\":7,\"step\":3,\"loss\":1}\n\n" +
                 R"({"kind":"evaluation","step":2,"loss":3.25})"
                 "\n" +
                 step_line(3, "3.0") + step_line(3, "2.75") + R"({"kind":"step","step":4,"lo)");
  const LossHistory history = read_loss_history(folder / "log.jsonl");
  ASSERT_EQ(history.train.size(), 2u);
  EXPECT_EQ(history.train[0].loss, 3.5);
  EXPECT_EQ(history.train[1].step, 3);
  EXPECT_EQ(history.train[1].loss, 2.75);  // the later one
  ASSERT_EQ(history.eval.size(), 1u);
  EXPECT_EQ(history.eval[0].loss, 3.25);
  EXPECT_EQ(history.unreadable_lines, 2);
  EXPECT_FALSE(history.has_finished.has_value());
  EXPECT_THROW(read_loss_history(folder / "none.jsonl"), IoError);
}

TEST(LossHistory, CuttingRemovesWhatLiesBehindTheStep) {
  const TemporaryFolder folder;
  const std::string kept = step_line(1, "3") +
                           R"({"kind":"notice","text":"a"})"
                           "\n" +
                           step_line(2, "2") +
                           R"({"kind":"evaluation","step":2,"loss":2})"
                           "\n";
  const std::string notice = R"({"kind":"warning","text":"b"})"
                             "\n";
  write_text(folder / "log.jsonl", kept + step_line(3, "1") +
                                       R"({"kind":"checkpoint","step":3})"
                                       "\n" +
                                       notice +
                                       R"({"kind":"evaluation","step":3,"loss":2})"
                                       "\n");
  cut_log(folder / "log.jsonl", 2);
  EXPECT_EQ(read_text(folder / "log.jsonl"), kept + notice);
  cut_log(folder / "log.jsonl", 2);
  EXPECT_EQ(read_text(folder / "log.jsonl"), kept + notice);
  cut_log(folder / "none.jsonl", 0);
  EXPECT_FALSE(std::filesystem::exists(folder / "none.jsonl"));
}

/// Checks that tags nest and attributes are quoted; returns how many elements there are.
int check_xml(const std::string& xml) {
  std::vector<std::string> open;
  int elements = 0;
  for (size_t i = xml.find('<'); i != std::string::npos; i = xml.find('<', i)) {
    const size_t end = xml.find('>', i);
    EXPECT_NE(end, std::string::npos);
    const std::string tag = xml.substr(i + 1, end - i - 1);
    EXPECT_EQ(std::count(tag.begin(), tag.end(), '"') % 2, 0) << tag;
    size_t length = 0;
    while (length < tag.size() && (std::isalnum(static_cast<unsigned char>(tag[length])) != 0)) {
      ++length;
    }
    if (tag[0] == '/') {
      EXPECT_FALSE(open.empty());
      if (open.empty()) return -1;
      EXPECT_EQ(open.back(), tag.substr(1));
      open.pop_back();
    } else {
      ++elements;
      if (tag.back() != '/') open.push_back(tag.substr(0, length));
    }
    i = end;
  }
  EXPECT_TRUE(open.empty());
  return elements;
}

size_t count_of(const std::string& text, const std::string& part) {
  size_t count = 0;
  for (size_t i = text.find(part); i != std::string::npos; i = text.find(part, i + 1)) ++count;
  return count;
}

LossHistory history_of(int steps) {
  LossHistory history;
  for (int i = 1; i <= steps; ++i) {
    history.train.push_back({static_cast<double>(i), 2 + std::exp(-i / 10.0)});
  }
  history.eval = {{0, 3.1}, {static_cast<double>(steps), 2.2}};
  return history;
}

TEST(LossCurve, IsSelfContainedSvg) {
  const std::string svg = loss_curve_svg(history_of(50), "a <b> & c");
  check_xml(svg);
  EXPECT_TRUE(svg.starts_with("<svg xmlns="));
  EXPECT_NE(svg.find("a &lt;b&gt; &amp; c"), std::string::npos);
  EXPECT_EQ(count_of(svg, "<polyline"), 3u);  // steps, their mean, evaluations
  EXPECT_EQ(count_of(svg, "<circle"), 2u);
  EXPECT_EQ(count_of(svg, "href"), 0u);
  EXPECT_EQ(svg.find("nan"), std::string::npos);
}

TEST(LossCurve, EveryPointLiesInsideTheFrame) {
  const std::string svg = loss_curve_svg(history_of(300), "t");
  const size_t begin = svg.find("points=\"") + 8;
  std::istringstream points(svg.substr(begin, svg.find('"', begin) - begin));
  int seen = 0;
  for (std::string point; points >> point; ++seen) {
    const double x = std::stod(point), y = std::stod(point.substr(point.find(',') + 1));
    EXPECT_TRUE(x >= 64 && x <= 836 && y >= 64 && y <= 368) << point;
  }
  EXPECT_EQ(seen, 300);
}

TEST(LossCurve, LongRunsAreThinnedButKeepTheirSpikes) {
  LossHistory history = history_of(200'000);
  history.train[123'456].loss = 40;
  const std::string svg = loss_curve_svg(history, "t");
  EXPECT_LT(svg.size(), 60'000u);
  EXPECT_NE(svg.find(",64.0 "), std::string::npos);  // the spike touches the top of the frame
}

TEST(LossCurve, ShortRunsHaveAPictureToo) {
  for (const auto& history :
       {LossHistory{}, LossHistory{{{1, 2.5}}, {}}, LossHistory{{}, {{0, 2.5}}},
        LossHistory{{{1, 2.5}, {2, 2.5}}, {}}, LossHistory{{{1, 0.0}, {2, 1e-12}}, {}}}) {
    const std::string svg = loss_curve_svg(history, "t");
    check_xml(svg);
    EXPECT_EQ(svg.find("nan"), std::string::npos);
    EXPECT_EQ(svg.find("inf"), std::string::npos);
  }
}

}  // namespace
}  // namespace qlora::trainer
