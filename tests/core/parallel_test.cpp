#include "core/parallel.h"

#include <gtest/gtest.h>

#include <vector>

#include "core/error.h"

namespace qlora {
namespace {

TEST(ParallelFor, CoversEveryItemOnce) {
  const int before = thread_count();
  for (const int threads : {1, 2, 3}) {
    set_thread_count(threads);
    EXPECT_EQ(thread_count(), threads);
    for (const int64_t count : {0, 1, 2, 7, 1001}) {
      for (const int64_t grain : {0, 10, 5000}) {
        std::vector<int> visits(static_cast<size_t>(count));
        parallel_for(count, grain, [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) ++visits[static_cast<size_t>(i)];
        });
        EXPECT_EQ(visits, std::vector<int>(static_cast<size_t>(count), 1))
            << threads << " " << grain;
      }
    }
  }
  set_thread_count(before);
}

TEST(ParallelFor, RefusesZeroThreads) {
  EXPECT_THROW(set_thread_count(0), ConfigError);
  EXPECT_THROW(set_thread_count(-1), ConfigError);
}

}  // namespace
}  // namespace qlora
