#include "io/safetensors.h"
#include "tests/io/test_files.h"

namespace qlora::io {
namespace {

std::span<const std::byte> bytes(const std::string& text) {
  return std::as_bytes(std::span(text));
}

TEST(SafetensorsWriter, MakesTheReferenceLibrarysBytes) {
  const TemporaryFolder folder;
  for (const char* name : {"all_types", "no_metadata"}) {
    const auto path = fixture(std::string("safetensors/") + name + ".safetensors");
    const SafetensorsReader reader(path);
    write_safetensors(folder / "copy", reader.tensors(), reader.metadata());
    EXPECT_EQ(read_file(folder / "copy"), read_file(path)) << name;
  }
}

TEST(SafetensorsWriter, StreamsInAnyOrder) {
  const TemporaryFolder folder;
  SafetensorsWriter writer(
      folder / "a",
      {{"small", DType::kU8, {3}}, {"wide", DType::kI64, {1}}, {"none", DType::kF32, {0}}},
      {{"key", "value"}});
  writer.write("small", bytes("abc"));
  writer.write("wide", bytes("12345678"));
  EXPECT_FALSE(std::filesystem::exists(folder / "a"));
  writer.commit();
  const SafetensorsReader reader(folder / "a");
  EXPECT_EQ(reader.metadata(), (Metadata{{"key", "value"}}));
  EXPECT_EQ(std::memcmp(reader.at("small").bytes.data(), "abc", 3), 0);
  EXPECT_EQ(std::memcmp(reader.at("wide").bytes.data(), "12345678", 8), 0);
  EXPECT_EQ(reader.at("none").shape, std::vector<int64_t>{0});
}

TEST(SafetensorsWriter, AnEmptyFileIsAFile) {
  const TemporaryFolder folder;
  write_safetensors(folder / "a", {});
  EXPECT_TRUE(SafetensorsReader(folder / "a").tensors().empty());
}

TEST(SafetensorsWriter, LeavesNothingWithoutCommit) {
  const TemporaryFolder folder;
  {
    SafetensorsWriter writer(folder / "a", {{"small", DType::kU8, {3}}});
    EXPECT_MESSAGE(ValueError, writer.write("smal", bytes("abc")),
                   "tensor 'smal' is not in the layout");
    EXPECT_MESSAGE(ValueError, writer.write("small", bytes("ab")),
                   "tensor 'small' takes 3 bytes, 2 are given");
    EXPECT_MESSAGE(ValueError, writer.commit(), "tensor 'small' was not written");
    writer.write("small", bytes("abc"));
    EXPECT_MESSAGE(ValueError, writer.write("small", bytes("abc")),
                   "tensor 'small' is written twice");
  }
  EXPECT_TRUE(folder.entries().empty());
}

TEST(SafetensorsWriter, RefusesBadNamesAndShapes) {
  const TemporaryFolder folder;
  const auto path = folder / "a";
  const auto make = [&](std::vector<SafetensorsWriter::Entry> layout,
                        const Metadata& metadata = {}) {
    SafetensorsWriter writer(path, std::move(layout), metadata);
  };
  EXPECT_MESSAGE(ValueError, make({{"", DType::kU8, {1}}}), "tensor name '' is reserved");
  EXPECT_MESSAGE(ValueError, make({{"__metadata__", DType::kU8, {1}}}),
                 "'__metadata__' is reserved");
  EXPECT_MESSAGE(ValueError, make({{"a\xff", DType::kU8, {1}}}),
                 "tensor name 'a\\xff' is not UTF-8");
  EXPECT_MESSAGE(ValueError, make({{"a", DType::kU8, {1}}, {"a", DType::kF32, {1}}}),
                 "tensor 'a' stands twice");
  EXPECT_MESSAGE(ValueError, make({{"a", DType::kU8, {-1}}}),
                 "shape [-1], with a negative dimension");
  EXPECT_MESSAGE(ValueError, make({{"a", DType::kU8, {1LL << 40, 1LL << 40}}}),
                 "larger than any file");
  EXPECT_MESSAGE(ValueError, make({}, {{"k\xff", "v"}}), "metadata key 'k\\xff' is not UTF-8");
  EXPECT_MESSAGE(ValueError, make({}, {{"k", "v\xff"}}), "metadata value 'v\\xff' is not UTF-8");
  EXPECT_TRUE(folder.entries().empty());
  EXPECT_MESSAGE(IoError, SafetensorsWriter(folder / "no/a", {}),
                 "cannot be written: No such file");
}

TEST(SafetensorsWriter, Moves) {
  const TemporaryFolder folder;
  SafetensorsWriter first(folder / "a", {{"x", DType::kU8, {1}}});
  SafetensorsWriter second(std::move(first));
  second.write("x", bytes("1"));
  second.commit();
  EXPECT_EQ(SafetensorsReader(folder / "a").tensors().size(), 1u);
}

}  // namespace
}  // namespace qlora::io
