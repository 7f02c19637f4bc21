#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "io/atomic_file.h"
#include "tests/io/test_files.h"

namespace qlora::io {
namespace {
namespace fs = std::filesystem;

void save(const fs::path& target, const std::string& content,
          IfExists if_exists = IfExists::kRefuse) {
  AtomicDirectory directory(target, if_exists);
  write_file_atomic(directory.path() / "weights", content);
  fs::create_directory(directory.path() / "sub");
  write_file_atomic(directory.path() / "sub" / "more", content + content);
  directory.commit();
}

TEST(AtomicDirectory, AppearsWithItsManifest) {
  const TemporaryFolder folder;
  save(folder / "c", "abc");
  EXPECT_EQ(folder.entries(), std::vector<std::string>{"c"});
  EXPECT_EQ(read_file(folder / "c/weights"), "abc");
  EXPECT_EQ(manifest_problem(folder / "c"), std::nullopt);
  EXPECT_NO_THROW(verify_manifest(folder / "c"));
  const std::string manifest = read_file(folder / "c/manifest.json");
  EXPECT_NE(manifest.find("\"sub/more\""), std::string::npos) << manifest;
  EXPECT_NE(manifest.find(sha256_hex("abc")), std::string::npos) << manifest;
}

TEST(AtomicDirectory, NothingAppearsWithoutCommit) {
  const TemporaryFolder folder;
  {
    AtomicDirectory directory(folder / "c");
    folder.put(directory.path().filename().string() + "/weights", "abc");
  }
  EXPECT_TRUE(folder.entries().empty());
}

TEST(AtomicDirectory, RefusesAnExistingTargetUnlessAsked) {
  const TemporaryFolder folder;
  save(folder / "c", "one");
  EXPECT_MESSAGE(IoError, save(folder / "c", "two"), "c: exists already");
  EXPECT_EQ(read_file(folder / "c/weights"), "one");
  save(folder / "c", "two", IfExists::kReplace);
  EXPECT_EQ(read_file(folder / "c/weights"), "two");
  save(folder.path() / "c/", "three", IfExists::kReplace);  // a slash at the end changes nothing
  EXPECT_EQ(read_file(folder / "c/weights"), "three");
  EXPECT_EQ(manifest_problem(folder / "c"), std::nullopt);
  EXPECT_EQ(folder.entries(), std::vector<std::string>{"c"});
}

TEST(AtomicDirectory, SaysWhatStandsInTheWay) {
  const TemporaryFolder folder;
  folder.put("file", "x");
  EXPECT_MESSAGE(IoError, save(folder / "file", "x", IfExists::kReplace),
                 "file: exists and is no directory");
  EXPECT_MESSAGE(IoError, save(folder / "no/c", "x"), "No such file or directory");
  {
    AtomicDirectory directory(folder / "late");
    folder.put("late/other", "x");
    EXPECT_MESSAGE(IoError, directory.commit(), "late: appeared while it was being saved");
  }
  {
    AtomicDirectory directory(folder / "links");
    fs::create_symlink("/etc/hostname", directory.path() / "link");
    EXPECT_MESSAGE(IoError, directory.commit(),
                   "neither file nor directory; a saved directory may hold no links");
  }
  {
    AtomicDirectory directory(folder / "gone");
    fs::remove_all(directory.path());
    EXPECT_MESSAGE(IoError, directory.commit(), "gone: cannot be saved");
  }
  EXPECT_EQ(folder.entries(), (std::vector<std::string>{"file", "late"}));
}

TEST(AtomicDirectory, ReplacesWhereTheFileSystemCannotExchange) {
  const TemporaryFolder folder;
  folder.put("new/weights", "new");
  folder.put("c/weights", "old");
  replace_directory(folder / "new", folder / "c", Exchange::kNever);
  EXPECT_EQ(read_file(folder / "c/weights"), "new");
  EXPECT_EQ(read_file(folder / "new/weights"), "old");  // as after an exchange
  EXPECT_EQ(folder.entries(), (std::vector<std::string>{"c", "new"}));
  EXPECT_MESSAGE(IoError, replace_directory(folder / "none", folder / "c", Exchange::kNever),
                 "No such file");
  EXPECT_EQ(read_file(folder / "c/weights"), "new");  // put back
  EXPECT_MESSAGE(IoError, replace_directory(folder / "none", folder / "c"), "No such file");
  EXPECT_MESSAGE(IoError, replace_directory(folder / "new", folder / "none", Exchange::kNever),
                 "No such file");
}

TEST(Manifest, SeesEveryKindOfDamage) {
  const TemporaryFolder folder;
  const auto problem_after = [&](const auto& damage) {
    save(folder / "c", "abc", IfExists::kReplace);
    damage();
    return manifest_problem(folder / "c").value_or("none");
  };
  const auto replace = [&](const std::string& from, const std::string& to) {
    std::string manifest = read_file(folder / "c/manifest.json");
    const size_t at = manifest.find(from);
    ASSERT_NE(at, std::string::npos);
    folder.put("c/manifest.json", manifest.replace(at, from.size(), to));
  };
  const auto expect = [&](const std::string& problem, const std::string& part) {
    EXPECT_NE(problem.find(part), std::string::npos) << problem;
  };
  expect(problem_after([&] { fs::remove(folder / "c/manifest.json"); }),
         "no manifest.json, so it is not complete");
  expect(problem_after([&] { fs::remove(folder / "c/sub/more"); }), "'sub/more' is missing");
  expect(problem_after([&] { folder.put("c/weights", "abcd"); }),
         "'weights' has 4 bytes, saved were 3");
  expect(problem_after([&] { folder.put("c/weights", "abd"); }), "'weights' has changed");
  expect(problem_after([&] { folder.put("c/manifest.json", "{"); }), "not JSON");
  expect(problem_after([&] { folder.put("c/manifest.json", "[]"); }),
         "not a manifest of version 1");
  expect(problem_after([&] { replace("\"version\": 1", "\"version\": 2"); }),
         "not a manifest of version 1");
  expect(problem_after([&] { replace("\"bytes\": 3", "\"bytes\": -3"); }),
         "lists 'weights' in a wrong way");
  expect(problem_after([&] { replace("\"bytes\": 3", "\"bytse\": 3"); }),
         "lists 'weights' in a wrong way");
  expect(problem_after([&] { replace("\"weights\"", "\"../c/weights\""); }),
         "lists '../c/weights' in a wrong way");
  expect(problem_after([&] { replace("\"weights\"", "\"/etc/hostname\""); }),
         "lists '/etc/hostname' in a wrong way");
  expect(problem_after([&] { folder.put("c/extra", "a file of the user"); }), "none");
}

TEST(Manifest, VerifyThrowsTheProblem) {
  const TemporaryFolder folder;
  save(folder / "c", "abc");
  folder.put("c/weights", "abd");
  EXPECT_MESSAGE(FormatError, verify_manifest(folder / "c"),
                 "'weights' has changed since it was saved");
  EXPECT_MESSAGE(FormatError, verify_manifest(folder / "none"), "no manifest.json");
}

/// A child saves again and again and is killed at a random moment; what stands under the name must
/// be one of the saves, whole.
TEST(AtomicDirectory, AKillDuringSaveLeavesAWholeDirectory) {
  const TemporaryFolder folder;
  save(folder / "c", std::string(200'000, 'a'));
  for (int round = 0; round < 25; ++round) {
    const pid_t child = ::fork();
    if (child == 0) {
      for (char letter = 'a';; letter = letter == 'z' ? 'a' : static_cast<char>(letter + 1)) {
        save(folder / "c", std::string(200'000, letter), IfExists::kReplace);
      }
    }
    ::usleep(static_cast<useconds_t>(3'000 + 1'700 * round));
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    ASSERT_EQ(manifest_problem(folder / "c"), std::nullopt) << round;
    const std::string weights = read_file(folder / "c/weights");
    ASSERT_EQ(weights, std::string(200'000, weights[0])) << round;
    ASSERT_EQ(read_file(folder / "c/sub/more"), weights + weights) << round;
  }
  for (const std::string& name : folder.entries()) {  // a minute later the next save cleans up
    const timespec old[2] = {{1'000'000, 0}, {1'000'000, 0}};
    ASSERT_EQ(::utimensat(AT_FDCWD, (folder / name).c_str(), old, 0), 0);
  }
  save(folder / "c", "last", IfExists::kReplace);
  EXPECT_EQ(folder.entries(), std::vector<std::string>{"c"});
}

}  // namespace
}  // namespace qlora::io
