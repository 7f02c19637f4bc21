#include "io/atomic_file.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/io/test_files.h"

namespace qlora::io {
namespace {

/// Runs `body` in a child process; the text that it returns comes back.
template <class Body>
std::string in_child(const Body& body) {
  int ends[2];
  if (::pipe(ends) != 0) return "no pipe";
  const pid_t child = ::fork();
  if (child == 0) {
    std::string text;
    try {
      text = body();
    } catch (const std::exception& error) {
      text = error.what();
    }
    ::_exit(::write(ends[1], text.data(), text.size()) == static_cast<ssize_t>(text.size()) ? 0
                                                                                            : 1);
  }
  ::close(ends[1]);
  std::string text;
  char buffer[4096];
  ssize_t got = 0;
  while ((got = ::read(ends[0], buffer, sizeof buffer)) > 0)
    text.append(buffer, static_cast<size_t>(got));
  ::close(ends[0]);
  int status = 0;
  ::waitpid(child, &status, 0);
  return status == 0 ? text : "the child died: " + std::to_string(status);
}

TEST(AtomicFile, WritesAndReplaces) {
  const TemporaryFolder folder;
  write_file_atomic(folder / "a", "one");
  EXPECT_EQ(read_file(folder / "a"), "one");
  write_file_atomic(folder / "a", std::string(300'000, 'z'));
  EXPECT_EQ(read_file(folder / "a"), std::string(300'000, 'z'));
  write_file_atomic(folder / "a", "");
  EXPECT_EQ(read_file(folder / "a"), "");
  EXPECT_EQ(folder.entries(), std::vector<std::string>{"a"});
}

TEST(AtomicFile, ModeFollowsTheUmask) {
  const TemporaryFolder folder;
  const mode_t before = ::umask(027);
  write_file_atomic(folder / "a", "x");
  ::umask(before);
  struct stat status {};
  ASSERT_EQ(::stat((folder / "a").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0640u);
}

TEST(AtomicFile, NothingAppearsWithoutCommit) {
  const TemporaryFolder folder;
  folder.put("a", "old");
  {
    AtomicFile file(folder / "a");
    file.append(std::as_bytes(std::span(std::string_view("new"))));
    EXPECT_EQ(read_file(folder / "a"), "old");
  }
  EXPECT_EQ(read_file(folder / "a"), "old");
  EXPECT_EQ(folder.entries(), std::vector<std::string>{"a"});
}

TEST(AtomicFile, WritesAtOffsetsInAnyOrder) {
  const TemporaryFolder folder;
  AtomicFile file(folder / "a");
  file.write_at(4, std::as_bytes(std::span(std::string_view("efgh"))));
  file.write_at(0, std::as_bytes(std::span(std::string_view("abcd"))));
  file.append(std::as_bytes(std::span(std::string_view("ij"))));
  file.commit();
  EXPECT_EQ(read_file(folder / "a"), "abcdefghij");
}

TEST(AtomicFile, SaysWhyItCannotWrite) {
  const TemporaryFolder folder;
  EXPECT_MESSAGE(IoError, write_file_atomic(folder / "no/a", "x"),
                 "cannot be written: No such file or directory in");
  EXPECT_MESSAGE(IoError, write_file_atomic("", "x"), "names no file");
  folder.put("d/inside", "x");
  EXPECT_MESSAGE(IoError, write_file_atomic(folder / "d", "x"),
                 "d: cannot be written: Is a directory");
  EXPECT_EQ(folder.entries(), std::vector<std::string>{"d"});
  EXPECT_MESSAGE(IoError, sync_directory(folder / "none"), "none: cannot be written: No such file");
}

TEST(AtomicFile, AFileSizeLimitIsAnErrorWithNumbers) {
  const TemporaryFolder folder;
  folder.put("a", "old");
  const std::string text = in_child([&]() -> std::string {
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{10'000, 10'000};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    write_file_atomic(folder / "a", std::string(50'000, 'x'));
    return "no error";
  });
  EXPECT_NE(text.find("a: File too large: 50000 bytes needed, "), std::string::npos) << text;
  EXPECT_NE(text.find(" bytes free there"), std::string::npos) << text;
  EXPECT_EQ(read_file(folder / "a"), "old");
  EXPECT_EQ(folder.entries(), std::vector<std::string>{"a"});
}

/// A short write: the limit is met in the middle of one, and no space was reserved before.
TEST(AtomicFile, AShortWriteIsAnErrorAndLeavesNothing) {
  const TemporaryFolder folder;
  const std::string text = in_child([&]() -> std::string {
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{10'000, 10'000};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    AtomicFile file(folder / "a");
    const std::string content(9'000, 'x');
    file.append(std::as_bytes(std::span(content)));
    file.append(std::as_bytes(std::span(content)));
    file.commit();
    return "no error";
  });
  EXPECT_NE(text.find("a: File too large: 18000 bytes needed"), std::string::npos) << text;
  EXPECT_TRUE(folder.entries().empty());
}

TEST(AtomicFile, AFullDiskIsAnErrorWithNumbers) {
  const TemporaryFolder folder;
  const std::string text = in_child([&]() -> std::string {
    const bool root = ::geteuid() == 0;
    if (::unshare(root ? CLONE_NEWNS : CLONE_NEWNS | CLONE_NEWUSER) != 0 ||
        ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        ::mount("tmpfs", folder.path().c_str(), "tmpfs", 0, "size=65536") != 0) {
      return "cannot mount";
    }
    write_file_atomic(folder / "a", std::string(4'096, 'x'));
    std::string result;
    try {
      write_file_atomic(folder / "a", std::string(1'000'000, 'y'));
    } catch (const IoError& error) {
      result += error.what();
    }
    try {
      AtomicDirectory directory(folder / "d");
      write_file_atomic(directory.path() / "b", std::string(1'000'000, 'y'));
      directory.commit();
    } catch (const IoError& error) {
      result += error.what();
    }
    const bool kept = read_file(folder / "a") == std::string(4'096, 'x');
    return result +
           (kept && folder.entries() == std::vector<std::string>{"a"} ? " kept" : " broken");
  });
  if (text == "cannot mount") GTEST_SKIP() << "no right to mount a small file system";
  EXPECT_NE(text.find("a: No space left on device: 1000000 bytes needed, "), std::string::npos)
      << text;
  EXPECT_NE(text.find("b: No space left on device: 1000000 bytes needed, "), std::string::npos)
      << text;
  EXPECT_TRUE(text.ends_with(" kept")) << text;
}

TEST(AtomicFile, LeftoversOfDeadProcessesGo) {
  const TemporaryFolder folder;
  for (const char* name : {".a.tmp-1", ".a.tmp-2", ".b.tmp-1"}) {
    folder.put(name, "x");
    const timespec old[2] = {{1'000'000, 0}, {1'000'000, 0}};
    ASSERT_EQ(::utimensat(AT_FDCWD, (folder / name).c_str(), old, 0), 0);
  }
  folder.put(".a.tmp-young", "x");
  write_file_atomic(folder / "a", "content");
  EXPECT_EQ(folder.entries(), (std::vector<std::string>{".a.tmp-young", ".b.tmp-1", "a"}));
}

TEST(AtomicFile, ASaveThatIsUnderWayIsLeftAlone) {
  const TemporaryFolder folder;
  AtomicFile slow(folder / "a");
  for (const std::string& name : folder.entries()) {
    const timespec old[2] = {{1'000'000, 0}, {1'000'000, 0}};
    ASSERT_EQ(::utimensat(AT_FDCWD, (folder / name).c_str(), old, 0), 0);
  }
  write_file_atomic(folder / "a", "quick");
  slow.append(std::as_bytes(std::span(std::string_view("slow"))));
  slow.commit();
  EXPECT_EQ(read_file(folder / "a"), "slow");
}

TEST(ReadFile, HasALimitAndSaysWhatIsWrong) {
  const TemporaryFolder folder;
  folder.put("a", std::string(100'000, 'x'));
  EXPECT_EQ(read_file(folder / "a", 100'000).size(), 100'000u);
  EXPECT_MESSAGE(FormatError, read_file(folder / "a", 99'999), "a: longer than 99999 bytes");
  EXPECT_MESSAGE(FormatError, read_file("/dev/zero", 1000), "longer than 1000 bytes");
  EXPECT_MESSAGE(IoError, read_file(folder / "none"), "none: cannot be opened: No such file");
  EXPECT_MESSAGE(IoError, read_file(folder.path()), "cannot be read: Is a directory");
}

TEST(Paths, WhatIsThereAndWhatCannotBeLookedAt) {
  const TemporaryFolder folder;
  folder.put("b", "x");
  folder.put("a", "x");
  EXPECT_TRUE(is_present(folder / "a"));
  EXPECT_FALSE(is_present(folder / "c"));
  EXPECT_FALSE(is_present(folder / "a/c"));  // below a file
  EXPECT_EQ(entries_of(folder.path()),
            (std::vector<std::filesystem::path>{folder / "a", folder / "b"}));
  EXPECT_TRUE(entries_of(folder / "c").empty());
  const auto loop = folder / "loop";
  std::filesystem::create_symlink(loop, loop);
  EXPECT_MESSAGE(IoError, is_present(loop), "loop: cannot be looked at: Too many levels");
  EXPECT_MESSAGE(IoError, entries_of(loop), "cannot be looked at");
  EXPECT_MESSAGE(IoError, is_present(folder / std::string(300, 'x')), "File name too long");
  EXPECT_MESSAGE(IoError, entries_of(folder / "a"), "a: cannot be read: Not a directory");
}

}  // namespace
}  // namespace qlora::io
