#include "io/mapped_file.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <utility>

#include "tests/io/test_files.h"

namespace qlora::io {
namespace {

int64_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  int64_t total = 0, resident = 0;
  file >> total >> resident;
  return resident * ::sysconf(_SC_PAGESIZE);
}

TEST(MappedFile, ShowsTheBytes) {
  const TemporaryFolder folder;
  const MappedFile file(folder.put("a", "hello"));
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()),
            "hello");
  EXPECT_EQ(file.path(), folder / "a");
}

TEST(MappedFile, AnEmptyFileIsEmpty) {
  const TemporaryFolder folder;
  EXPECT_TRUE(MappedFile(folder.put("a", "")).bytes().empty());
}

TEST(MappedFile, Moves) {
  const TemporaryFolder folder;
  MappedFile first(folder.put("a", "first")), second(folder.put("b", "second"));
  MappedFile moved(std::move(first));
  EXPECT_EQ(moved.bytes().size(), 5u);
  moved = std::move(second);
  EXPECT_EQ(moved.bytes().size(), 6u);
}

TEST(MappedFile, RefusesWhatIsNoRegularFile) {
  const TemporaryFolder folder;
  EXPECT_MESSAGE(IoError, MappedFile(folder / "none"), "none: cannot be opened: No such file");
  EXPECT_MESSAGE(IoError, MappedFile(folder.path()), "not a regular file");
  EXPECT_MESSAGE(IoError, MappedFile("/dev/null"), "not a regular file");
  ASSERT_EQ(::mkfifo((folder / "fifo").c_str(), 0600), 0);
  EXPECT_MESSAGE(IoError, MappedFile(folder / "fifo"), "not a regular file");  // and does not wait
}

TEST(MappedFile, ReleasedPagesLeaveTheResidentSet) {
  const TemporaryFolder folder;
  constexpr size_t kBytes = 64 << 20;
  const MappedFile file(folder.put("a", std::string(kBytes, 'x')));
  const int64_t before = resident_bytes();
  int64_t sum = 0;
  for (const std::byte byte : file.bytes()) sum += static_cast<int>(byte);
  EXPECT_EQ(sum, static_cast<int64_t>(kBytes) * 'x');
  EXPECT_GT(resident_bytes() - before, static_cast<int64_t>(kBytes) * 9 / 10);
  file.release(file.bytes().subspan(1, kBytes - 2));
  EXPECT_LT(resident_bytes() - before, static_cast<int64_t>(kBytes) / 10);
  EXPECT_EQ(file.bytes()[kBytes / 2], std::byte{'x'});  // and come back when they are read
  file.release({});
  const std::byte elsewhere[4] = {};
  file.release(elsewhere);  // not ours: nothing happens
}

}  // namespace
}  // namespace qlora::io
