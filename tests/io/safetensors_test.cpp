#include "io/safetensors.h"

#include <cmath>

#include "tests/io/test_files.h"

namespace qlora::io {
namespace {

/// A file with this header and this many data bytes, as a liar would make it.
std::string file_with(const std::string& header, size_t data_bytes) {
  return bytes_of(static_cast<uint64_t>(header.size())) + header + std::string(data_bytes, '\1');
}

std::string entry(const std::string& name, const std::string& dtype, const std::string& shape,
                  uint64_t begin, uint64_t end) {
  return fmt::format(R"("{}":{{"dtype":"{}","shape":{},"data_offsets":[{},{}]}})", name, dtype,
                     shape, begin, end);
}

std::string refusal(const std::string& content) {
  const TemporaryFolder folder;
  const auto path = folder.put("a.safetensors", content);
  return message_of<FormatError>([&] { SafetensorsReader reader(path); });
}

#define EXPECT_REFUSED(content, part) \
  EXPECT_NE(refusal(content).find(part), std::string::npos) << refusal(content)

TEST(SafetensorsReader, ReadsWhatTheReferenceLibraryWrote) {
  const SafetensorsReader reader(fixture("safetensors/all_types.safetensors"));
  EXPECT_EQ(reader.tensors().size(), 16u);
  EXPECT_EQ(reader.metadata(), (Metadata{{"format", "pt"}}));
  const TensorView& f64 = reader.at("z.f64");
  EXPECT_EQ(f64.shape, (std::vector<int64_t>{3, 5}));
  EXPECT_EQ(f64.element_count(), 15);
  std::vector<float> expected(15), actual(15);
  read_f32(f64, 0, 15, expected.data());
  const std::pair<const char*, double> kinds[] = {{"f32", 0},
                                                  {"f16", 1.0 / 2048},
                                                  {"bf16", 1.0 / 256},
                                                  {"f8_e4m3", 1.0 / 16},
                                                  {"f8_e5m2", 1.0 / 8}};
  for (const auto& [name, error] : kinds) {
    read_f32(reader.at(name), 0, 15, actual.data());
    for (int i = 0; i < 15; ++i) {
      EXPECT_LE(std::fabs(actual[i] - expected[i]), error * std::fabs(expected[i]) + error * 0x1p-6)
          << name;
    }
    EXPECT_TRUE(error != 0 || actual == expected);
  }
  read_f32(reader.at("f16"), 7, 3, expected.data());
  read_f32(reader.at("f16"), 0, 15, actual.data());
  EXPECT_EQ(std::vector(expected.begin(), expected.begin() + 3),
            std::vector(actual.begin() + 7, actual.begin() + 10));
  EXPECT_EQ(reader.at("scalar").shape, std::vector<int64_t>{});
  EXPECT_EQ(reader.at("scalar").element_count(), 1);
  EXPECT_EQ(reader.at("empty").element_count(), 0);
  EXPECT_NE(reader.find("name \"with\" \\ \n ü 한"), nullptr);
  EXPECT_TRUE(SafetensorsReader(fixture("safetensors/no_metadata.safetensors")).metadata().empty());
}

TEST(SafetensorsReader, SaysWhatACloneLeftInItsPlace) {
  EXPECT_REFUSED("version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS");
}

TEST(SafetensorsReader, NamesTheNearestTensor) {
  const SafetensorsReader reader(fixture("safetensors/all_types.safetensors"));
  EXPECT_EQ(reader.find("b.f64"), nullptr);
  EXPECT_MESSAGE(FormatError, reader.at("f8_e5m3"), "no tensor 'f8_e5m3'; the nearest is 'f8_e");
  EXPECT_MESSAGE(FormatError, reader.at("nothing like it"), "no tensor 'nothing like it'");
}

TEST(SafetensorsReader, ReadsOnlyInsideTheTensor) {
  const SafetensorsReader reader(fixture("safetensors/all_types.safetensors"));
  float out[20];
  for (const auto& [first, count] : {std::pair<int64_t, int64_t>{0, 16},
                                     {15, 1},
                                     {-1, 2},
                                     {3, -1},
                                     {INT64_MAX, 1},
                                     {1, INT64_MAX}}) {
    EXPECT_MESSAGE(ValueError, read_f32(reader.at("f32"), first, count, out),
                   "on asked for; it has 15");
  }
  EXPECT_MESSAGE(ValueError, read_f32(reader.at("i32"), 0, 1, out), "I32 elements are no weights");
  EXPECT_NO_THROW(read_f32(reader.at("f32"), 15, 0, out));
}

TEST(SafetensorsReader, ReleasesATensor) {
  const SafetensorsReader reader(fixture("safetensors/all_types.safetensors"));
  float before = 0, after = 0;
  read_f32(reader.at("scalar"), 0, 1, &before);
  reader.release(reader.at("scalar"));
  read_f32(reader.at("scalar"), 0, 1, &after);
  EXPECT_EQ(before, 2.5f);
  EXPECT_EQ(after, 2.5f);
}

TEST(SafetensorsHeader, LengthIsChecked) {
  EXPECT_REFUSED("", "0 bytes, too short");
  EXPECT_REFUSED("1234567", "7 bytes, too short");
  EXPECT_REFUSED(bytes_of(uint64_t{3}) + "{}", "header of 3 bytes in a file of 10");
  EXPECT_REFUSED(bytes_of(~uint64_t{0}) + "{}",
                 "header of 18446744073709551615 bytes, at most 100000000");
  EXPECT_REFUSED(bytes_of(uint64_t{100'000'001}) + "{}", "at most 100000000 are allowed");
  EXPECT_REFUSED(bytes_of(uint64_t{0}), "does not start with '{'");
}

TEST(SafetensorsHeader, JsonIsChecked) {
  EXPECT_REFUSED(file_with("[]", 0), "does not start with '{'");
  EXPECT_REFUSED(file_with(" {}", 0), "does not start with '{'");
  EXPECT_REFUSED(file_with("{", 0), "not JSON");
  EXPECT_REFUSED(file_with("{} {}", 0), "not JSON");
  EXPECT_REFUSED(file_with("{\"a\xff\":1}", 0), "not JSON");
  std::string deep = "{\"a\":";
  deep += std::string(100'000, '[');
  EXPECT_REFUSED(file_with(deep, 0), "nests deeper than 4 levels");
  EXPECT_REFUSED(
      file_with("{" + entry("a", "U8", "[1]", 0, 1) + "," + entry("a", "U8", "[1]", 1, 2) + "}", 2),
      "key 'a' stands twice");
  const TemporaryFolder folder;
  EXPECT_NO_THROW(
      SafetensorsReader(folder.put("a", file_with("{}   ", 0))));  // padding with spaces
}

TEST(SafetensorsHeader, EntriesAreChecked) {
  EXPECT_REFUSED(file_with(R"({"a":1})", 0),
                 "tensor 'a' is not described by dtype, shape and data_offsets");
  EXPECT_REFUSED(file_with(R"({"a":{"dtype":"U8","shape":[1]}})", 1), "is not described by");
  EXPECT_REFUSED(file_with(R"({"a":{"dtype":"U8","shape":[1],"offsets":[0,1]}})", 1),
                 "has no data_offsets");
  EXPECT_REFUSED(file_with(R"({"a":{"type":"U8","shape":[1],"data_offsets":[0,1]}})", 1),
                 "has no dtype");
  EXPECT_REFUSED(file_with(R"({"a":{"dtype":"U8","shap":[1],"data_offsets":[0,1]}})", 1),
                 "has no shape");
  EXPECT_REFUSED(file_with(R"({"a":{"dtype":1,"shape":[1],"data_offsets":[0,1]}})", 1),
                 "dtype that is no text");
  EXPECT_REFUSED(file_with("{" + entry("a", "U4", "[1]", 0, 1) + "}", 1),
                 "'a': unknown tensor type 'U4'");
  EXPECT_REFUSED(file_with("{" + entry("a", "U8", "1", 0, 1) + "}", 1), "shape that is no list");
  EXPECT_REFUSED(file_with("{" + entry("a", "U8", "[1.0]", 0, 1) + "}", 1),
                 "dimension is '1.0', not a whole number");
  EXPECT_REFUSED(file_with("{" + entry("a", "U8", "[-1]", 0, 1) + "}", 1), "dimension is '-1'");
  EXPECT_REFUSED(file_with("{" + entry("a", "U8", "[\"1\"]", 0, 1) + "}", 1), "not a whole number");
  std::string ones = "[1";
  for (int i = 0; i < 64; ++i) ones += ",1";
  EXPECT_REFUSED(file_with("{" + entry("a", "U8", ones + "]", 0, 1) + "}", 1),
                 "at most 64 numbers");
  EXPECT_REFUSED(file_with(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0]}})", 1),
                 "that are no pair");
  EXPECT_REFUSED(file_with(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1.5]}})", 1),
                 "offset is '1.5'");
  EXPECT_REFUSED(file_with(R"({"__metadata__":[]})", 0), "__metadata__ is no object");
  EXPECT_REFUSED(file_with(R"({"__metadata__":{"a":1}})", 0), "__metadata__ 'a' is no text");
}

TEST(SafetensorsHeader, SizesAndOffsetsAreChecked) {
  EXPECT_REFUSED(file_with("{" + entry("a", "F32", "[2]", 0, 8) + "}", 7),
                 "outside the 7 data bytes");
  EXPECT_REFUSED(file_with("{" + entry("a", "F32", "[2]", 8, 0) + "}", 8),
                 "data_offsets [8, 0], outside");
  EXPECT_REFUSED(file_with("{" + entry("a", "F32", "[2]", ~uint64_t{0} - 3, 4) + "}", 8),
                 "outside");
  EXPECT_REFUSED(file_with("{" + entry("a", "F32", "[3]", 0, 8) + "}", 8),
                 "needs 12 bytes, data_offsets give 8");
  // 2^62 * 4 and 2^32 * 2^32 are 0 modulo 2^64.
  EXPECT_REFUSED(file_with("{" + entry("a", "F32", "[4611686018427387904]", 0, 0) + "}", 0),
                 "larger than any file");
  EXPECT_REFUSED(file_with("{" + entry("a", "U8", "[4294967296,4294967296]", 0, 0) + "}", 0),
                 "larger than any file");
  EXPECT_REFUSED(file_with("{" + entry("a", "U8", "[0,4294967296,4294967296]", 0, 0) + "}", 0),
                 "larger than any file");
  EXPECT_REFUSED(file_with("{" + entry("a", "U8", "[18446744073709551615]", 0, 0) + "}", 0),
                 "larger than any file");
  EXPECT_REFUSED(file_with("{" + entry("a", "U8", "[18446744073709551616]", 0, 0) + "}", 0),
                 "not a whole number");
  EXPECT_REFUSED(file_with("{" + entry("a", "U8", "[0,18446744073709551615]", 0, 0) + "}", 0),
                 "larger than any");
}

TEST(SafetensorsHeader, TensorsCoverTheDataOnce) {
  EXPECT_REFUSED(
      file_with("{" + entry("a", "U8", "[4]", 0, 4) + "," + entry("b", "U8", "[4]", 2, 6) + "}", 6),
      "tensor 'b' starts at data byte 2, the one before it ends at 4: they overlap");
  EXPECT_REFUSED(
      file_with("{" + entry("a", "U8", "[4]", 0, 4) + "," + entry("b", "U8", "[4]", 0, 4) + "}", 4),
      "they overlap");
  EXPECT_REFUSED(
      file_with("{" + entry("a", "U8", "[2]", 0, 2) + "," + entry("b", "U8", "[2]", 4, 6) + "}", 6),
      "tensor 'b' starts at data byte 4, the one before it ends at 2: a hole");
  EXPECT_REFUSED(file_with("{" + entry("a", "U8", "[2]", 1, 3) + "}", 3), "a hole");
  EXPECT_REFUSED(file_with("{" + entry("a", "U8", "[2]", 0, 2) + "}", 3),
                 "end at data byte 2 of 3");
  EXPECT_REFUSED(file_with("{}", 1), "end at data byte 0 of 1");
  const TemporaryFolder folder;  // tensors that are empty may share a place
  const SafetensorsReader reader(folder.put(
      "a",
      file_with("{" + entry("a", "U8", "[0]", 2, 2) + "," + entry("b", "U8", "[2]", 0, 2) + "," +
                    entry("c", "U8", "[1,0]", 0, 0) + "," + entry("d", "U8", "[2]", 2, 4) + "}",
                4)));
  EXPECT_EQ(reader.tensors().size(), 4u);
}

class Directory : public ::testing::Test {
 protected:
  std::string shard(const std::string& name) {
    return file_with("{" + entry(name, "U8", "[2]", 0, 2) + "}", 2);
  }
  void index(const std::string& weight_map) {
    folder_.put("model.safetensors.index.json",
                R"({"metadata":{},"weight_map":)" + weight_map + "}");
  }
  std::string refusal() {
    return message_of<FormatError>([&] { SafetensorsReader reader(folder_.path()); });
  }
  TemporaryFolder folder_;
};

TEST_F(Directory, FindsTheUsualNames) {
  folder_.put("adapter_model.safetensors", shard("adapter"));
  EXPECT_NE(SafetensorsReader(folder_.path()).find("adapter"), nullptr);
  folder_.put("model.safetensors", shard("model"));
  EXPECT_NE(SafetensorsReader(folder_.path()).find("model"), nullptr);
  folder_.put("m-1.safetensors", shard("a"));
  folder_.put("m-2.safetensors", shard("b"));
  index(R"({"b":"m-2.safetensors","a":"m-1.safetensors"})");
  const SafetensorsReader reader(folder_.path());
  ASSERT_EQ(reader.tensors().size(), 2u);
  EXPECT_EQ(reader.tensors()[0].name, "a");
  EXPECT_EQ(reader.files(), (std::vector<std::filesystem::path>{folder_ / "m-1.safetensors",
                                                                folder_ / "m-2.safetensors"}));
}

TEST_F(Directory, IndexAndShardsHaveToAgree) {
  folder_.put("m-1.safetensors", shard("a"));
  folder_.put("m-2.safetensors", shard("a"));
  index(R"({"a":"m-1.safetensors","b":"m-2.safetensors"})");
  EXPECT_NE(refusal().find("two shards hold tensor 'a'"), std::string::npos) << refusal();
  index(R"({"a":"m-1.safetensors","b":"m-1.safetensors"})");
  EXPECT_NE(refusal().find("places tensor 'b' in 'm-1.safetensors', which does not hold it"),
            std::string::npos);
  index(R"({"a":"m-3.safetensors"})");
  EXPECT_MESSAGE(IoError, SafetensorsReader(folder_.path()), "m-3.safetensors: cannot be opened");
}

TEST_F(Directory, IndexIsNotTrusted) {
  index("[]");
  EXPECT_NE(refusal().find("no object weight_map"), std::string::npos);
  folder_.put("model.safetensors.index.json", "{}");
  EXPECT_NE(refusal().find("no object weight_map"), std::string::npos);
  index(R"({"a":1})");
  EXPECT_NE(refusal().find("weight_map of 'a' is no file name"), std::string::npos);
  for (const char* name :
       {"../secret.safetensors", "/etc/passwd", "", "..", ".", "a/b.safetensors", "a\\u0000b"}) {
    index(fmt::format(R"({{"a":"{}"}})", name));
    EXPECT_NE(refusal().find("which is no file beside the index"), std::string::npos) << name;
  }
}

TEST_F(Directory, PicklesAreRefused) {
  folder_.put("pytorch_model.bin", "x");
  EXPECT_NE(refusal().find("pytorch_model.bin: a pickle, which can run any code"),
            std::string::npos)
      << refusal();
  for (const char* name : {"a.bin", "a.pt", "a.pth", "a.ckpt", "a.pkl"}) {
    EXPECT_MESSAGE(FormatError, SafetensorsReader(folder_ / name),
                   "convert it to safetensors first");
  }
}

TEST_F(Directory, AnEmptyOneIsRefused) {
  EXPECT_MESSAGE(IoError, SafetensorsReader(folder_.path()),
                 "holds none of model.safetensors.index.json, model.safe");
  EXPECT_MESSAGE(IoError, SafetensorsReader(folder_ / "none"),
                 "none: cannot be opened: No such file");
}

}  // namespace
}  // namespace qlora::io
