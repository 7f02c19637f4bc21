#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cctype>
#include <csignal>
#include <cstring>
#include <optional>
#include <string>

#include "core/clock.h"
#include "core/error.h"
#include "core/memory.h"
#include "core/signals.h"

namespace qlora {
namespace {

constexpr uint64_t kMegabyte = 1 << 20;

// Resident pages that neither the allocator nor a sanitizer keeps after unmap.
class Pages {
 public:
  explicit Pages(uint64_t bytes) : bytes_(bytes) {
    data_ = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    std::memset(data_, 1, bytes);
  }
  ~Pages() { munmap(data_, bytes_); }

 private:
  uint64_t bytes_;
  void* data_;
};

TEST(Memory, CurrentAndPeakFollowAnAllocation) {
  const uint64_t before = current_rss_bytes();
  ASSERT_GT(before, kMegabyte);
  const bool can_reset = reset_peak_rss();
  {
    const Pages pages(64 * kMegabyte);
    EXPECT_GE(current_rss_bytes(), before + 60 * kMegabyte);
  }
  EXPECT_LT(current_rss_bytes(), before + 10 * kMegabyte);
  EXPECT_GE(peak_rss_bytes(), before + 60 * kMegabyte);
  if (!can_reset) GTEST_SKIP() << "the system does not let us reset the peak";
  ASSERT_TRUE(reset_peak_rss());
  EXPECT_LT(peak_rss_bytes(), before + 30 * kMegabyte);
}

TEST(Memory, SomeIsAvailable) {
  EXPECT_GT(available_memory_bytes(), kMegabyte);
  EXPECT_LT(available_memory_bytes(), uint64_t{1} << 50);
}

TEST(Memory, DiskOfFoldersThatAreYetToCome) {
  EXPECT_GT(available_disk_bytes("/"), 0u);
  EXPECT_EQ(available_disk_bytes("/no/such/folder") / (256 * kMegabyte),
            available_disk_bytes("/") / (256 * kMegabyte));
  EXPECT_GT(available_disk_bytes("relative/new"), 0u);
  EXPECT_LT(available_disk_bytes("/" + std::string(10000, 'a')), uint64_t{1} << 60);
}

TEST(Clock, TimesGoForward) {
  const Stopwatch watch;
  const double cpu = process_cpu_seconds();
  volatile double sum = 0;
  while (process_cpu_seconds() - cpu < 0.01) sum = sum + 1;
  EXPECT_GT(watch.seconds(), 0.005);
  const std::string now = utc_timestamp(), form = "20dd-dd-ddTdd:dd:dd.dddZ";
  ASSERT_EQ(now.size(), form.size());
  for (size_t i = 0; i < form.size(); ++i) {
    EXPECT_TRUE(form[i] == 'd' ? std::isdigit(now[i]) : now[i] == form[i]) << now;
  }
}

TEST(StopSignals, NotesTheFirstSignal) {
  {
    const StopSignals signals;
    EXPECT_FALSE(stop_requested());
    EXPECT_EQ(stop_exit_code(), 0);
    raise(SIGTERM);
    EXPECT_TRUE(stop_requested());
    EXPECT_EQ(stop_signal(), SIGTERM);
    EXPECT_EQ(stop_exit_code(), 143);
    raise(SIGTERM);  // impatient supervisors send it again
    EXPECT_EQ(stop_exit_code(), 143);
  }
  const StopSignals fresh;
  EXPECT_FALSE(stop_requested());
  raise(SIGINT);
  EXPECT_EQ(stop_exit_code(), 130);
}

TEST(StopSignals, RestoresTheHandlersBefore) {
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    struct sigaction before = {}, after = {};
    sigaction(signal, nullptr, &before);
    { const StopSignals signals; }
    sigaction(signal, nullptr, &after);
    EXPECT_EQ(before.sa_handler, after.sa_handler) << signal;
  }
}

TEST(StopSignals, AClosedTerminalStopsUnlessTheRunIsToOutliveIt) {
  const auto before = std::signal(SIGHUP, SIG_DFL);
  {
    const StopSignals signals;
    raise(SIGHUP);
    EXPECT_EQ(stop_exit_code(), 129);
  }
  std::signal(SIGHUP, SIG_IGN);  // as nohup starts it
  {
    const StopSignals signals;
    raise(SIGHUP);
    EXPECT_FALSE(stop_requested());
  }
  std::signal(SIGHUP, before);
}

TEST(BrokenPipesDeathTest, AReaderThatHasGoneEndsNothing) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto write_on = [] {
    std::signal(SIGPIPE, SIG_DFL);
    ignore_broken_pipes();
    raise(SIGPIPE);
    _exit(7);
  };
  EXPECT_EXIT(write_on(), ::testing::ExitedWithCode(7), "");
}

TEST(StopSignals, OneAtATime) {
  const StopSignals signals;
  EXPECT_THROW(StopSignals(), ValueError);
}

TEST(StopSignalsDeathTest, SecondCtrlCExitsAtOnce) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto interrupt_twice = [] {
    const StopSignals signals;
    raise(SIGINT);
    raise(SIGINT);
    _exit(0);  // not reached
  };
  EXPECT_EXIT(interrupt_twice(), ::testing::ExitedWithCode(130), "");
  const auto terminate_then_interrupt = [] {
    const StopSignals signals;
    raise(SIGTERM);
    raise(SIGINT);
    _exit(0);  // not reached
  };
  EXPECT_EXIT(terminate_then_interrupt(), ::testing::ExitedWithCode(130), "");
}

}  // namespace
}  // namespace qlora
