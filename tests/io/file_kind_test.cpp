#include "io/file_kind.h"

#include <gtest/gtest.h>

#include <string>
#include <utility>

#include "core/error.h"
#include "tests/support/errors.h"

namespace qlora::io {
namespace {

using std::string_literals::operator""s;

TEST(FileKind, IsSaidWithWhatToDo) {
  const std::pair<std::string, const char*> kinds[] = {
      {"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
       "[data] a.jsonl is a pointer of Git LFS, not the file itself; fetch that with `git lfs "
       "pull`"},
      {"\n<!DOCTYPE html>\n<html>", "is an HTML page, as a download that failed leaves it"},
      {"<HTML><body>", "is an HTML page"},
      {"\x1F\x8B\x08", "is packed with gzip; unpack it first"},
      {"\x28\xB5\x2F\xFD", "is packed with zstd"},
      {"\xFD"
       "7zXZ\0"s,
       "is packed with xz"},
      {"PK\x03\x04", "is a zip archive or a spreadsheet"},
      {"ARROW1\0\0"s, "is an Arrow table"},
      {"PAR1 rows PAR1", "is a Parquet table; save its rows as .jsonl or .csv"},
      {"\xFF\xFE{\0"s, "is UTF-16; save it as UTF-8"},
      {"\xFE\xFF\0{"s, "is UTF-16"},
      {"\xFF\xFE\0\0"s, "is UTF-32"},
      {"{\0\"\0"s, "is UTF-16"},
      {"\0{\0\""s, "is UTF-16"}};
  for (const auto& [content, part] : kinds) {
    EXPECT_ERROR(FormatError, refuse_other_kind(content, "[data] a.jsonl"), part);
  }
}

TEST(FileKind, APlaceholderOfABinaryFileIsToldApart) {
  EXPECT_ERROR(FormatError,
               refuse_placeholder("version https://git-lfs.github.com/spec/v1\n", "[io] a.gguf"),
               "[io] a.gguf is a pointer of Git LFS");
  EXPECT_ERROR(FormatError, refuse_placeholder("<html>", "[io] a.gguf"), "is an HTML page");
  EXPECT_NO_THROW(refuse_placeholder("\x1F\x8B\0\0\0\0\0\0{}"s, "[io] a.safetensors"));
}

TEST(FileKind, LetsTextsPass) {
  for (const char* text : {"", "<", "{\"text\": \"<html>\"}", "PAR1,text\nx,y\n", "\xEF\xBB\xBF{}",
                           "version https://", "\u00e9\u00e9"}) {
    EXPECT_NO_THROW(refuse_other_kind(text, "[data] a.jsonl")) << text;
  }
}

}  // namespace
}  // namespace qlora::io
