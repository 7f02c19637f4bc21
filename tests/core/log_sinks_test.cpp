#include "core/log_sinks.h"

#include <gtest/gtest.h>

#include <cmath>
#include <sstream>
#include <thread>

#include "core/error.h"
#include "tests/support/temporary_folder.h"

namespace qlora {
namespace {

using testing::read_text;
using testing::TemporaryFolder;

// Runs the action on a log that writes into memory and returns what it wrote.
template <class Action>
std::string printed(const TerminalLogOptions& options, Action action) {
  char* text = nullptr;
  size_t size = 0;
  std::FILE* out = open_memstream(&text, &size);
  {
    TerminalLog log(out, options);
    action(log);
  }
  std::fclose(out);
  const std::string result(text, size);
  std::free(text);
  return result;
}

TEST(TerminalLog, KeepsTheLiveLineLast) {
  const TerminalLogOptions options{.is_terminal = true, .columns = 20};
  const std::string text = printed(options, [](RunLog& log) {
    log.live("step 1");
    log.notice("saved");
    log.live("step 2");
    log.event("step", {});
  });
  const std::string erase = "\r\x1b[K";
  EXPECT_EQ(text, erase + "step 1" + erase + "saved\n" + erase + "step 1" + erase + "step 2\n");
}

TEST(TerminalLog, AnEmptyTextTakesTheLiveLineAway) {
  const auto speak = [](RunLog& log) {
    log.live("step 1");
    log.live("");
    log.notice("done");
  };
  EXPECT_EQ(printed({.is_terminal = true, .columns = 20}, speak), "\r\x1b[Kstep 1\r\x1b[Kdone\n");
  EXPECT_EQ(printed({.plain_interval_seconds = 0}, speak), "step 1\ndone\n");
}

TEST(TerminalLog, CutsTheLiveLineBetweenCharacters) {
  const TerminalLogOptions options{.is_terminal = true, .columns = 6};
  EXPECT_EQ(printed(options, [](RunLog& log) { log.live("ab · · ·"); }), "\r\x1b[Kab · \n");
}

TEST(TerminalLog, PlainLinesElsewhere) {
  const auto speak = [](RunLog& log) {
    log.live("step 1");
    log.live("step 2");
    log.warn("careful");
  };
  EXPECT_EQ(printed({.plain_interval_seconds = 1000}, speak), "step 1\nwarning: careful\n");
  EXPECT_EQ(printed({.plain_interval_seconds = 0}, speak), "step 1\nstep 2\nwarning: careful\n");
}

TEST(TerminalLog, QuietShowsWarningsOnly) {
  const TerminalLogOptions options{.verbosity = Verbosity::kQuiet, .is_terminal = true};
  EXPECT_EQ(printed(options,
                    [](RunLog& log) {
                      log.notice("a");
                      log.live("b");
                      log.warn("c");
                    }),
            "warning: c\n");
}

TEST(TerminalLog, ShowsNoControlCharacters) {
  EXPECT_EQ(printed({},
                    [](RunLog& log) {
                      log.notice(
                          "a\x1b[2Jb\nc\x7f\xC2\x9B"
                          "dé");
                    }),
            "a?[2Jb?c??dé\n");
}

TEST(TerminalLog, AStreamThatTakesNothingEndsNoRun) {
  std::FILE* full = std::fopen("/dev/full", "w");  // every write there fails for want of space
  ASSERT_NE(full, nullptr);
  {
    TerminalLog log(full, {.is_terminal = true, .columns = 20});
    EXPECT_NO_THROW(log.live("step 1"));
    EXPECT_NO_THROW(log.notice("saved"));
  }
  std::fclose(full);
}

TEST(JsonlLog, WritesOneObjectALine) {
  const TemporaryFolder folder;
  const auto path = folder / "a.jsonl";
  {
    JsonlLog log(path);
    log.event("step", {{"loss", 2.5}, {"bad", std::nan("")}, {"text", "\xff"}});
    log.notice("n\n");
    log.warn("w");
    log.live("not written");
  }
  {
    JsonlLog log(path);  // appends
    log.event("end", nlohmann::json::object());
  }
  std::istringstream lines(read_text(path));
  std::vector<nlohmann::json> records;
  for (std::string line; std::getline(lines, line);) records.push_back(nlohmann::json::parse(line));
  ASSERT_EQ(records.size(), 4u);
  EXPECT_EQ(records[0]["kind"], "step");
  EXPECT_EQ(records[0]["loss"], 2.5);
  EXPECT_TRUE(records[0]["bad"].is_null());
  EXPECT_EQ(records[0]["text"], "\uFFFD");
  EXPECT_EQ(records[0]["time"].get<std::string>().size(), 24u);
  EXPECT_EQ(records[1]["kind"], "notice");
  EXPECT_EQ(records[1]["text"], "n\n");
  EXPECT_EQ(records[2]["kind"], "warning");
  EXPECT_EQ(records[3]["kind"], "end");
}

TEST(JsonlLog, ClosesALineThatACrashHasCut) {
  const TemporaryFolder folder;
  const auto path = folder / "b.jsonl";
  testing::write_text(path, "{\"kind\":\"step\",\"lo");
  JsonlLog(path).event("start", nlohmann::json::object());
  EXPECT_TRUE(read_text(path).starts_with("{\"kind\":\"step\",\"lo\n{\"time\":"));
}

TEST(JsonlLog, ReportsWhatTheSystemRefuses) {
  EXPECT_THROW(JsonlLog("/nowhere/at/all/log.jsonl"), IoError);
  JsonlLog full("/dev/full");  // every write there fails for want of space
  EXPECT_THROW(full.event("step", nlohmann::json::object()), IoError);
}

TEST(JsonlLog, LinesOfSeveralThreadsStayWhole) {
  const TemporaryFolder folder;
  const auto path = folder / "c.jsonl";
  {
    JsonlLog log(path);
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&log, t] {
        for (int i = 0; i < 200; ++i) log.event("step", {{"t", t}, {"pad", std::string(300, 'x')}});
      });
    }
    for (auto& thread : threads) thread.join();
  }
  std::istringstream lines(read_text(path));
  int count = 0;
  for (std::string line; std::getline(lines, line); ++count) {
    ASSERT_TRUE(nlohmann::json::accept(line)) << line;
  }
  EXPECT_EQ(count, 800);
}

class CountingLog final : public RunLog {
 public:
  void notice(const std::string& text) override { seen += "n" + text; }
  void warn(const std::string& text) override { seen += "w" + text; }
  void live(const std::string& text) override { seen += "l" + text; }
  void event(const std::string& kind, const nlohmann::json& record) override {
    seen += "e" + kind + record.dump();
  }
  std::string seen;
};

TEST(TeeLog, HandsEverythingToAll) {
  CountingLog first, second;
  TeeLog tee({&first, &second});
  tee.notice("1");
  tee.warn("2");
  tee.live("3");
  tee.event("4", 5);
  EXPECT_EQ(first.seen, "n1w2l3e45");
  EXPECT_EQ(second.seen, first.seen);
}

}  // namespace
}  // namespace qlora
