#include "io/sha256.h"

#include "core/parallel.h"
#include "tests/io/test_files.h"

namespace qlora::io {
namespace {

// FIPS 180-4 examples.
TEST(Sha256, KnownAnswers) {
  EXPECT_EQ(sha256_hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sha256_hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(sha256_hex(std::string(1'000'000, 'a')),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Sha256, PiecesAndFilesGiveTheSame) {
  std::string text;
  for (int i = 0; i < 300'000; ++i) text += static_cast<char>(i * 7 + i / 256);
  Sha256 hash;
  for (size_t i = 0; i < text.size(); i += 1000)
    hash.update(std::string_view(text).substr(i, 1000));
  EXPECT_EQ(hash.hex(), sha256_hex(text));
  const TemporaryFolder folder;
  EXPECT_EQ(sha256_file(folder.put("a", text)), sha256_hex(text));
  EXPECT_EQ(sha256_file(folder.put("empty", "")), sha256_hex(""));
  EXPECT_MESSAGE(IoError, sha256_file(folder / "none"), "none: cannot be read: No such file");
  EXPECT_MESSAGE(IoError, sha256_file(folder.path()), "cannot be read: Is a directory");
}

TEST(Sha256, TreeFollowsItsDefinitionOnAnyNumberOfThreads) {
  std::string text(2 * kTreeHashPieceBytes + 5, '\0');
  for (size_t i = 0; i < text.size(); ++i) text[i] = static_cast<char>(i * 2654435761u >> 11);
  std::string root = std::to_string(text.size()) + "\n";
  for (size_t i = 0; i < text.size(); i += kTreeHashPieceBytes) {
    root += sha256_hex(std::string_view(text).substr(i, kTreeHashPieceBytes)) + "\n";
  }
  const TemporaryFolder folder;
  const auto path = folder.put("a", text);
  const int threads = thread_count();
  for (const int count : {1, 2, 3}) {
    set_thread_count(count);
    EXPECT_EQ(sha256_tree_file(path), sha256_hex(root));
  }
  set_thread_count(threads);
  EXPECT_EQ(sha256_tree_file(folder.put("empty", "")), sha256_hex("0\n"));
  EXPECT_MESSAGE(IoError, sha256_tree_file(folder / "none"), "cannot be read");
}

TEST(Sha256, TreeSeesEveryByte) {
  const TemporaryFolder folder;
  std::string text(100'000, 'x');
  const std::string hash = sha256_tree_file(folder.put("a", text));
  for (const size_t at : {size_t{0}, size_t{50'001}, text.size() - 1}) {
    std::string changed = text;
    changed[at] ^= 1;
    EXPECT_NE(sha256_tree_file(folder.put("a", changed)), hash);
  }
}

}  // namespace
}  // namespace qlora::io
