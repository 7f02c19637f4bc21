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
  write_base_record(run.path(), base_record_of(model));
  fs::create_directory(run.path() / "checkpoint-3");
  for (const fs::path& adapter :
       {run.path(), run.path() / "checkpoint-3", run.path() / "checkpoint-3/"}) {
    const auto record = read_base_record(adapter);
    ASSERT_TRUE(record) << adapter;
    EXPECT_EQ(record->path, model);
    EXPECT_EQ(record->sha256, Checkpoint(model).source_hash());
    EXPECT_EQ(record->weights, Checkpoint(model).source_hashes().weights);
  }
  fs::create_directory(run.path() / "other");
  EXPECT_FALSE(read_base_record(run.path() / "other"));
}

TEST(BaseRecord, TellsFilesApart) {
  const testing::TemporaryFolder run;
  write_base_record(run.path(), base_record_of(fixture("gguf/tiny_llama").string()));
  const auto folder = read_base_record(run.path());
  write_base_record(run.path(), base_record_of(fixture("gguf/tiny_llama.gguf").string()));
  EXPECT_NE(read_base_record(run.path())->sha256, folder->sha256);
}

TEST(BaseRecord, SaysThatTheBaseIsAnother) {
  const testing::TemporaryFolder run;
  const Checkpoint folder(fixture("gguf/tiny_llama")), file(fixture("gguf/tiny_llama.gguf"));
  EXPECT_FALSE(base_difference(run.path(), folder));  // no record
  write_base_record(run.path(), base_record_of(folder.path().string()));
  EXPECT_FALSE(base_difference(run.path(), folder));
  const auto difference = base_difference(run.path(), file);
  ASSERT_TRUE(difference);
  EXPECT_SAYS(*difference, "was trained on " + folder.path().string() + " with other weights than");
  EXPECT_SAYS(*difference, "here " + file.source_hashes().weights.substr(0, 12));
}

TEST(BaseRecord, AnotherConfigurationIsNoOtherBase) {
  const testing::TemporaryFolder folder;
  const fs::path model = folder.path() / "model", run = folder.path() / "run";
  fs::copy(fixture("gguf/tiny_llama"), model);
  fs::create_directory(run);
  write_base_record(run, base_record_of(model.string()));
  write_text(model / "config.json", testing::read_text(model / "config.json") + "\n");
  EXPECT_FALSE(base_difference(run, Checkpoint(model)));
  // A record of an earlier version holds the hash of both alone.
  write_text(run / kBaseRecordFile,
             R"({"path": "m", "sha256": ")" + Checkpoint(model).source_hash() + R"("})");
  EXPECT_FALSE(base_difference(run, Checkpoint(model)));
  write_text(model / "config.json", testing::read_text(model / "config.json") + "\n");
  EXPECT_TRUE(base_difference(run, Checkpoint(model)));
}

TEST(BaseRecord, AFolderThatCannotBeLookedAtIsAnError) {
  const testing::TemporaryFolder run;
  EXPECT_ERROR(IoError, read_base_record(run.path() / std::string(300, 'x')), "too long");
  fs::create_directory_symlink(run.path() / "loop", run.path() / "loop");
  EXPECT_ERROR(IoError, read_base_record(run.path() / "loop"), "symbolic links");
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
