// What an adapter's folder says of the weights that it was trained on.
#include "io/base_record.h"

#include "core/error.h"
#include "io/checkpoint.h"
#include "tests/io/test_files.h"

namespace qlora::io {
namespace {

namespace fs = std::filesystem;
using testing::write_text;

TEST(BaseRecord, IsFoundFromTheRunAndFromItsCheckpoints) {
  const testing::TemporaryFolder run;
  const std::string model = fixture("gguf/tiny_llama").string();
  EXPECT_FALSE(read_base_record(run.path()));
  write_base_record(run.path(), model);
  fs::create_directory(run.path() / "checkpoint-3");
  for (const fs::path& adapter :
       {run.path(), run.path() / "checkpoint-3", run.path() / "checkpoint-3/"}) {
    const auto record = read_base_record(adapter);
    ASSERT_TRUE(record) << adapter;
    EXPECT_EQ(record->path, model);
    EXPECT_EQ(record->sha256, Checkpoint(model).source_hash());
  }
  fs::create_directory(run.path() / "other");
  EXPECT_FALSE(read_base_record(run.path() / "other"));
}

TEST(BaseRecord, TellsFilesApart) {
  const testing::TemporaryFolder run;
  write_base_record(run.path(), fixture("gguf/tiny_llama").string());
  const auto folder = read_base_record(run.path());
  write_base_record(run.path(), fixture("gguf/tiny_llama.gguf").string());
  EXPECT_NE(read_base_record(run.path())->sha256, folder->sha256);
}

TEST(BaseRecord, RefusesWhatIsNone) {
  const testing::TemporaryFolder run;
  for (const char* text : {"[]", "{}", R"({"path": "m", "sha256": 5})"}) {
    write_text(run.path() / kBaseRecordFile, text);
    EXPECT_ERROR(FormatError, read_base_record(run.path()), "delete it");
  }
  write_text(run.path() / kBaseRecordFile, "{");
  EXPECT_ERROR(FormatError, read_base_record(run.path()), kBaseRecordFile);
}

}  // namespace
}  // namespace qlora::io
