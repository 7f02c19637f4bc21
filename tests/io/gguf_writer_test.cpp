#include "io/gguf_writer.h"

#include <cstring>
#include <limits>

#include "tests/io/test_files.h"

namespace qlora::io {
namespace {

using Layout = std::vector<GgufWriter::Entry>;

std::vector<std::byte> floats(std::initializer_list<float> values) {
  std::vector<std::byte> bytes(values.size() * sizeof(float));
  std::memcpy(bytes.data(), values.begin(), bytes.size());
  return bytes;
}

TEST(GgufMetadata, EveryTypeIsReadBack) {
  const TemporaryFolder folder;
  GgufMetadata metadata;
  metadata.add("a.u32", uint32_t{4'000'000'000});
  metadata.add("a.f32", 1.5f);
  metadata.add("a.true", true);
  metadata.add("a.false", false);
  metadata.add("a.text", "한글 \n\"x\"");
  metadata.add("a.empty", "");
  const std::vector<std::string> texts = {"", "b", std::string("z\0z", 3)};
  metadata.add("a.texts", std::span<const std::string>(texts));
  const std::vector<int32_t> integers = {-1, 0, std::numeric_limits<int32_t>::max()};
  metadata.add("a.integers", std::span<const int32_t>(integers));
  const std::vector<float> numbers = {0.25f, -1e30f};
  metadata.add("a.numbers", std::span<const float>(numbers));
  metadata.add("a.none", std::span<const float>());
  EXPECT_EQ(metadata.count(), 10u);
  EXPECT_TRUE(metadata.has("a.none"));
  EXPECT_FALSE(metadata.has("a.non"));
  GgufWriter(folder / "m.gguf", metadata, {}).commit();

  const GgufReader gguf(folder / "m.gguf");
  EXPECT_EQ(gguf.version(), 3u);
  EXPECT_TRUE(gguf.tensors().empty());
  EXPECT_EQ(gguf.integer("a.u32"), 4'000'000'000);
  EXPECT_EQ(gguf.number("a.f32"), 1.5);
  EXPECT_TRUE(gguf.boolean("a.true"));
  EXPECT_FALSE(gguf.boolean("a.false"));
  EXPECT_EQ(gguf.string("a.text"), "한글 \n\"x\"");
  EXPECT_EQ(gguf.string("a.empty"), "");
  const auto read = gguf.strings("a.texts");
  EXPECT_EQ(std::vector<std::string>(read.begin(), read.end()), texts);
  EXPECT_EQ(gguf.integers("a.integers"),
            (std::vector<int64_t>{-1, 0, std::numeric_limits<int32_t>::max()}));
  EXPECT_EQ(gguf.numbers("a.numbers"), numbers);
  EXPECT_TRUE(gguf.numbers("a.none").empty());
}

TEST(GgufMetadata, CopiesEveryValueOfAForeignFile) {
  const TemporaryFolder folder;
  const GgufReader source(fixture("gguf/metadata.gguf"));
  GgufMetadata metadata;
  for (const GgufValue& value : source.values()) {
    if (value.key != "general.alignment") metadata.copy(value);
  }
  GgufWriter(folder / "m.gguf", metadata, {}).commit();
  const GgufReader gguf(folder / "m.gguf");
  ASSERT_GT(gguf.values().size(), 12u);
  size_t copied = 0;
  for (const GgufValue& value : source.values()) {
    const GgufValue* copy = gguf.find(value.key);
    if (copy == nullptr) continue;
    ++copied;
    EXPECT_EQ(copy->type, value.type) << value.key;
    EXPECT_EQ(copy->element_type, value.element_type) << value.key;
    EXPECT_EQ(copy->count, value.count) << value.key;
    ASSERT_EQ(copy->bytes.size(), value.bytes.size()) << value.key;
    EXPECT_EQ(std::memcmp(copy->bytes.data(), value.bytes.data(), value.bytes.size()), 0);
  }
  EXPECT_EQ(copied, gguf.values().size());
}

TEST(GgufMetadata, RefusesBadKeys) {
  GgufMetadata metadata;
  metadata.add("a", true);
  EXPECT_MESSAGE(ValueError, metadata.add("a", 1.0f), "the metadata key 'a' stands twice");
  EXPECT_MESSAGE(ValueError, metadata.add("", 1.0f), "has 0 bytes");
  EXPECT_MESSAGE(ValueError, metadata.add(std::string(65536, 'k'), 1.0f), "has 65536 bytes");
  EXPECT_MESSAGE(ValueError, metadata.add("\xff", 1.0f), "UTF-8");
}

TEST(GgufWriter, CopiesAForeignFilesTensorsBitByBit) {
  const TemporaryFolder folder;
  for (const char* name : {"gguf/blocks.gguf", "gguf/tiny_llama.gguf"}) {
    const GgufReader source(fixture(name));
    GgufMetadata metadata;
    for (const GgufValue& value : source.values()) metadata.copy(value);
    Layout layout;
    for (const GgufTensor& t : source.tensors()) {
      layout.push_back({std::string(t.name), t.type, t.shape});
    }
    GgufWriter writer(folder / "copy.gguf", metadata, layout);
    for (size_t i = source.tensors().size(); i-- > 0;) {  // any order, and in two parts
      const GgufTensor& t = source.tensors()[i];
      writer.append(t.name, t.bytes.first(t.bytes.size() / 3));
      writer.append(t.name, t.bytes.subspan(t.bytes.size() / 3));
    }
    const uint64_t size = writer.file_bytes();
    writer.commit();
    EXPECT_EQ(std::filesystem::file_size(folder / "copy.gguf"), size);
    const GgufReader copy(folder / "copy.gguf");
    ASSERT_EQ(copy.tensors().size(), source.tensors().size());
    for (size_t i = 0; i < copy.tensors().size(); ++i) {
      const GgufTensor &a = copy.tensors()[i], &b = source.tensors()[i];
      EXPECT_EQ(a.name, b.name);
      EXPECT_EQ(a.type, b.type);
      EXPECT_EQ(a.shape, b.shape);
      ASSERT_EQ(a.bytes.size(), b.bytes.size());
      EXPECT_EQ(std::memcmp(a.bytes.data(), b.bytes.data(), a.bytes.size()), 0) << a.name;
      EXPECT_EQ(reinterpret_cast<uintptr_t>(a.bytes.data()) % 32, 0u);
    }
    // The same writer with the same metadata gives the reference library's bytes.
    EXPECT_EQ(read_file(folder / "copy.gguf"), read_file(fixture(name))) << name;
  }
}

TEST(GgufWriter, AlignsAndFillsWithZeros) {
  const TemporaryFolder folder;
  GgufWriter writer(folder / "a.gguf", {},
                    {{"one", GgmlType::kF32, {1}}, {"two", GgmlType::kF32, {2, 1}}});
  writer.append("two", floats({2, 3}));
  writer.append("one", floats({1}));
  writer.commit();
  const std::string file = read_file(folder / "a.gguf");
  EXPECT_EQ(file.size() % 32, 0u);
  EXPECT_EQ(file.substr(file.size() - 24), std::string(24, '\0'));
  const GgufReader gguf(folder / "a.gguf");
  float values[2];
  gguf.read_f32_rows(*gguf.find_tensor("two"), 0, 2, values);
  EXPECT_EQ(values[1], 3);
  EXPECT_EQ(gguf.find_tensor("two")->shape, (std::vector<int64_t>{2, 1}));
}

TEST(GgufWriter, LeavesNothingWithoutCommit) {
  const TemporaryFolder folder;
  {
    GgufWriter writer(folder / "a.gguf", {}, {{"one", GgmlType::kF32, {2}}});
    EXPECT_MESSAGE(ValueError, writer.append("on", floats({1})),
                   "tensor 'on' is not in the layout");
    EXPECT_MESSAGE(ValueError, writer.append("one", floats({1, 2, 3})),
                   "tensor 'one' takes 8 bytes, 12 are given");
    writer.append("one", floats({1}));
    EXPECT_MESSAGE(ValueError, writer.commit(), "4 of 8 bytes of tensor 'one' were written");
    writer.append("one", floats({1}));
    EXPECT_MESSAGE(ValueError, writer.append("one", floats({1})), "takes 8 bytes, 12 are given");
  }
  EXPECT_TRUE(folder.entries().empty());
}

TEST(GgufWriter, RefusesWhatNoReaderTakes) {
  const TemporaryFolder folder;
  const auto write = [&](const Layout& layout) { GgufWriter(folder / "a.gguf", {}, layout); };
  EXPECT_MESSAGE(ValueError, write({{"", GgmlType::kF32, {1}}}), "has 0 bytes");
  EXPECT_MESSAGE(ValueError, write({{std::string(65, 'n'), GgmlType::kF32, {1}}}), "65 bytes");
  EXPECT_MESSAGE(ValueError, write({{"\xfe", GgmlType::kF32, {1}}}), "UTF-8");
  EXPECT_MESSAGE(ValueError, write({{"a", GgmlType::kF32, {}}}), "0 dimensions");
  EXPECT_MESSAGE(ValueError, write({{"a", GgmlType::kF32, {1, 1, 1, 1, 1}}}), "5 dimensions");
  EXPECT_MESSAGE(ValueError, write({{"a", GgmlType::kF32, {0}}}), "an empty tensor");
  EXPECT_MESSAGE(ValueError, write({{"a", GgmlType::kF32, {1 << 30, 1 << 30, 1 << 30}}}),
                 "larger than any file");
  EXPECT_MESSAGE(ValueError, write({{"a", GgmlType::kQ8_0, {32, 33}}}), "no whole blocks of 32");
  EXPECT_MESSAGE(ValueError, write({{"a", GgmlType::kF32, {1}}, {"a", GgmlType::kF32, {1}}}),
                 "stands twice");
  GgufMetadata metadata;
  metadata.add("general.alignment", uint32_t{64});
  EXPECT_MESSAGE(ValueError, GgufWriter(folder / "a.gguf", metadata, {}), "general.alignment");
  EXPECT_THROW(GgufWriter(folder / "no" / "a.gguf", {}, {}), IoError);
  EXPECT_TRUE(folder.entries().empty());
}

}  // namespace
}  // namespace qlora::io
