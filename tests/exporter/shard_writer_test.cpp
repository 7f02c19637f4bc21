#include "exporter/shard_writer.h"

#include <gtest/gtest.h>

#include <cstring>
#include <nlohmann/json.hpp>
#include <string>

#include "core/error.h"
#include "io/atomic_file.h"
#include "tests/support/temporary_folder.h"

namespace qlora::exporter {
namespace {

namespace fs = std::filesystem;
using Layout = std::vector<io::SafetensorsWriter::Entry>;
using testing::TemporaryFolder;

TEST(ParseBytes, KnowsBothKindsOfUnits) {
  const std::pair<const char*, uint64_t> kCases[] = {{"5GB", 5'000'000'000},
                                                     {"500MB", 500'000'000},
                                                     {"2GiB", uint64_t{2} << 30},
                                                     {"1.5 KB", 1500},
                                                     {"123", 123},
                                                     {"7B", 7},
                                                     {"1MiB", 1 << 20},
                                                     {"1TB", 1'000'000'000'000}};
  for (const auto& [text, bytes] : kCases) EXPECT_EQ(parse_bytes(text), bytes) << text;
  for (const char* text : {"", "GB", "5gb", "5 G", "-1GB", "0", "nan", "1e300", "5GB5", "inf"}) {
    EXPECT_THROW(parse_bytes(text), ConfigError) << text;
  }
}

TEST(PlanShards, FillsInOrderAndSplitsNoTensor) {
  const Layout layout = {{"a", io::DType::kU8, {6}},
                         {"b", io::DType::kU8, {4}},
                         {"c", io::DType::kU8, {30}},
                         {"d", io::DType::kU8, {1}},
                         {"e", io::DType::kU8, {0}}};
  using Plan = std::vector<std::vector<size_t>>;
  EXPECT_EQ(plan_shards(layout, 10), (Plan{{0, 1}, {2}, {3, 4}}));
  EXPECT_EQ(plan_shards(layout, 9), (Plan{{0}, {1}, {2}, {3, 4}}));
  EXPECT_EQ(plan_shards(layout, 1000), (Plan{{0, 1, 2, 3, 4}}));
  EXPECT_EQ(plan_shards(layout, 1), (Plan{{0}, {1}, {2}, {3, 4}}));
  EXPECT_EQ(plan_shards({}, 1), Plan{{}});
}

std::vector<std::byte> content(const std::string& name, size_t count) {
  std::vector<std::byte> bytes(count);
  for (size_t i = 0; i < count; ++i) bytes[i] = static_cast<std::byte>(name[0] + i);
  return bytes;
}

TEST(ShardWriter, TheStrictReaderFindsEveryTensor) {
  const Layout layout = {{"model.a", io::DType::kI32, {3, 2}},
                         {"model.b", io::DType::kF16, {5}},
                         {"model.c", io::DType::kF8E4M3, {7, 1}},
                         {"model.d", io::DType::kI64, {2}},
                         {"model.e", io::DType::kU8, {100}}};
  for (const uint64_t limit : {uint64_t{1}, uint64_t{40}, uint64_t{1} << 40}) {
    const TemporaryFolder folder;
    ShardWriter writer(folder.path(), layout, limit);
    EXPECT_EQ(writer.total_bytes(), 24u + 10 + 7 + 16 + 100);
    for (size_t i = layout.size(); i-- > 0;) {  // any order
      const auto& entry = layout[i];
      int64_t count = io::dtype_bytes(entry.dtype);
      for (const int64_t size : entry.shape) count *= size;
      writer.write(entry.name, content(entry.name, static_cast<size_t>(count)));
    }
    const auto files = writer.finish();
    const io::SafetensorsReader reader(folder.path());
    EXPECT_EQ(reader.metadata().at("format"), "pt");
    ASSERT_EQ(reader.tensors().size(), layout.size());
    for (const auto& entry : layout) {
      const io::TensorView& tensor = reader.at(entry.name);
      EXPECT_EQ(tensor.dtype, entry.dtype);
      EXPECT_EQ(tensor.shape, entry.shape);
      const auto expected = content(entry.name, tensor.bytes.size());
      EXPECT_EQ(std::memcmp(tensor.bytes.data(), expected.data(), expected.size()), 0);
    }
    EXPECT_EQ(files.back() == "model.safetensors.index.json", files.size() > 1);
    for (const std::string& file : files) EXPECT_TRUE(fs::exists(folder / file)) << file;
    if (files.size() > 1) {
      const auto index = nlohmann::json::parse(io::read_file(folder / files.back()));
      EXPECT_EQ(index["metadata"]["total_size"], 157);
      EXPECT_EQ(index["weight_map"].size(), layout.size());
      EXPECT_EQ(files[0], limit == 1 ? "model-00001-of-00005.safetensors"
                                     : "model-00001-of-00003.safetensors");
    }
  }
}

TEST(ShardWriter, SaysWhatIsMissingOrTooMuch) {
  const TemporaryFolder folder;
  const Layout layout = {{"a", io::DType::kU8, {2}}, {"b", io::DType::kU8, {2}}};
  const auto two = content("a", 2);
  EXPECT_THROW(ShardWriter(folder.path(), {layout[0], layout[0]}, 100), ValueError);
  {
    ShardWriter writer(folder.path(), layout, 2);
    EXPECT_THROW(writer.write("c", two), ValueError);
    EXPECT_THROW(writer.write("a", content("a", 3)), ValueError);
    writer.write("a", two);
    EXPECT_THROW(writer.write("a", two), ValueError);
    EXPECT_THROW(writer.finish(), ValueError);
  }
  ShardWriter one(folder.path(), layout, 100);
  one.write("a", two);
  EXPECT_THROW(one.write("a", two), ValueError);
  EXPECT_THROW(one.finish(), ValueError);
}

TEST(ShardWriter, NoTensorsMakeOneEmptyFile) {
  const TemporaryFolder folder;
  EXPECT_EQ(ShardWriter(folder.path(), {}, 100).finish(),
            std::vector<std::string>{"model.safetensors"});
  EXPECT_TRUE(io::SafetensorsReader(folder / "model.safetensors").tensors().empty());
}

}  // namespace
}  // namespace qlora::exporter
