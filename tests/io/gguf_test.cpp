#include "io/gguf.h"

#include <cmath>

#include "tests/io/gguf_builder.h"

namespace qlora::io {
namespace {

TEST(GgufReader, ReadsEveryMetadataType) {
  const GgufReader gguf(fixture("gguf/metadata.gguf"));
  EXPECT_EQ(gguf.version(), 3u);
  EXPECT_EQ(gguf.string("general.architecture"), "llama");
  EXPECT_EQ(gguf.integer("t.u8"), 200);
  EXPECT_EQ(gguf.integer("t.i8"), -100);
  EXPECT_EQ(gguf.integer("t.u16"), 60000);
  EXPECT_EQ(gguf.integer("t.i16"), -30000);
  EXPECT_EQ(gguf.integer("t.u32"), 4000000000);
  EXPECT_EQ(gguf.integer("t.i32"), -2000000000);
  EXPECT_EQ(gguf.integer("t.i64"), -(int64_t{1} << 62));
  EXPECT_EQ(gguf.number("t.f32"), static_cast<double>(0.1f));
  EXPECT_EQ(gguf.number("t.f64"), 0.1);
  EXPECT_EQ(gguf.number("t.u8"), 200.0);
  EXPECT_TRUE(gguf.boolean("t.yes"));
  EXPECT_FALSE(gguf.boolean("t.no"));
  EXPECT_EQ(gguf.string("t.text"), "naïve 한글 🙂");
  EXPECT_EQ(gguf.strings("t.texts"), (std::vector<std::string_view>{"", "a", "Ġb", "🙂"}));
  EXPECT_EQ(gguf.integers("t.ints"), (std::vector<int64_t>{1, -2, 3}));
  EXPECT_EQ(gguf.numbers("t.floats"), (std::vector<float>{0.5f, -1.25f}));
  EXPECT_EQ(gguf.numbers("t.ints"), (std::vector<float>{1, -2, 3}));
  EXPECT_EQ(gguf.find("t.bools")->count, 2u);
}

TEST(GgufReader, AbsentKeysAndWrongTypes) {
  const GgufReader gguf(fixture("gguf/metadata.gguf"));
  EXPECT_EQ(gguf.find_integer("no"), std::nullopt);
  EXPECT_EQ(gguf.find_number("no"), std::nullopt);
  EXPECT_EQ(gguf.find_boolean("no"), std::nullopt);
  EXPECT_EQ(gguf.find_string("no"), std::nullopt);
  EXPECT_FALSE(gguf.has("no"));
  EXPECT_MESSAGE(FormatError, gguf.integer("no"), "metadata key 'no' is missing");
  EXPECT_MESSAGE(FormatError, gguf.number("no"), "is missing");
  EXPECT_MESSAGE(FormatError, gguf.boolean("no"), "is missing");
  EXPECT_MESSAGE(FormatError, gguf.string("no"), "is missing");
  EXPECT_MESSAGE(FormatError, gguf.strings("no"), "is missing");
  EXPECT_MESSAGE(FormatError, gguf.integers("no"), "is missing");
  EXPECT_MESSAGE(FormatError, gguf.numbers("no"), "is missing");
  EXPECT_MESSAGE(FormatError, gguf.integer("t.u64"),
                 "key 't.u64' is U64, not an integer of 64 bits");  // 2^64 - 1
  EXPECT_MESSAGE(FormatError, gguf.integer("t.f32"), "key 't.f32' is F32, not an integer");
  EXPECT_MESSAGE(FormatError, gguf.integer("t.ints"),
                 "key 't.ints' is an array of I32, not an integer");
  EXPECT_MESSAGE(FormatError, gguf.number("t.text"), "is STRING, not a number");
  EXPECT_MESSAGE(FormatError, gguf.boolean("t.u8"), "is U8, not a boolean");
  EXPECT_MESSAGE(FormatError, gguf.string("t.u8"), "is U8, not a text");
  EXPECT_MESSAGE(FormatError, gguf.strings("t.ints"), "not an array of texts");
  EXPECT_MESSAGE(FormatError, gguf.strings("t.text"), "not an array of texts");
  EXPECT_MESSAGE(FormatError, gguf.integers("t.texts"), "not an array of integers");
  EXPECT_MESSAGE(FormatError, gguf.integers("t.u8"), "not an array of integers");
  EXPECT_MESSAGE(FormatError, gguf.integers("t.floats"), "not an array of integers of 64 bits");
  EXPECT_MESSAGE(FormatError, gguf.numbers("t.texts"), "not an array of numbers");
  EXPECT_MESSAGE(FormatError, gguf.numbers("t.bools"), "not an array of numbers");
}

class GgufFile : public ::testing::Test {
 protected:
  GgufReader open(const std::string& content) { return GgufReader(folder_.put("a.gguf", content)); }
  std::string refusal(const std::string& content) {
    return message_of<FormatError>([&] { open(content); });
  }
  TemporaryFolder folder_;
};

#define EXPECT_REFUSED(content, part) \
  EXPECT_NE(refusal(content).find(part), std::string::npos) << refusal(content)

TEST_F(GgufFile, TensorsHaveTheirRowsAndBytes) {
  GgufBuilder file;
  file.version = 2;
  file.floats("cube", {4, 3, 2}, 1.5f).tensor("row", {32}, 8, std::string(34, '\2'));
  const GgufReader gguf = open(file.build());
  EXPECT_EQ(gguf.version(), 2u);
  ASSERT_EQ(gguf.tensors().size(), 2u);
  const GgufTensor& cube = *gguf.find_tensor("cube");
  EXPECT_EQ(cube.shape, (std::vector<int64_t>{2, 3, 4}));
  EXPECT_EQ(cube.rows(), 6);
  EXPECT_EQ(cube.columns(), 4);
  EXPECT_EQ(gguf.find_tensor("row")->rows(), 1);
  EXPECT_EQ(gguf.find_tensor("row")->bytes.size(), 34u);
  EXPECT_EQ(gguf.find_tensor("nothing"), nullptr);
  float out[24] = {};
  gguf.read_f32_rows(cube, 5, 1, out);
  EXPECT_EQ(out[3], 1.5f);
  gguf.release(cube);
  gguf.read_f32_rows(cube, 0, 6, out);
  EXPECT_EQ(out[23], 1.5f);
  for (const auto& [begin, count] :
       {std::pair<int64_t, int64_t>{0, 7}, {6, 1}, {-1, 1}, {1, -1}, {INT64_MAX, 1}}) {
    EXPECT_MESSAGE(ValueError, gguf.read_f32_rows(cube, begin, count, out),
                   "on asked for; it has 6");
  }
}

TEST_F(GgufFile, KnownTypesThatAreNotReadAreNamed) {
  GgufBuilder file;
  file.tensor("w", {256}, 10, std::string(84, '\0'));
  const GgufReader gguf = open(file.build());
  float out[256];
  EXPECT_MESSAGE(FormatError, gguf.read_f32_rows(gguf.tensors()[0], 0, 1, out),
                 "tensor 'w' has type Q2_K, which is");
}

TEST_F(GgufFile, FrontIsChecked) {
  EXPECT_REFUSED("", "the magic number at byte 0 needs 4 bytes, 0 are left");
  EXPECT_REFUSED("GGU", "the magic number");
  EXPECT_REFUSED("version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS");
  EXPECT_REFUSED("GGML" + std::string(100, '\0'), "does not start with GGUF");
  GgufBuilder file;
  for (const uint32_t version : {0u, 1u, 4u, 99u}) {
    file.version = version;
    EXPECT_REFUSED(file.build(), fmt::format("the GGUF version is {}, allowed 2 or 3", version));
  }
  file.version = 3u << 24;
  EXPECT_REFUSED(file.build(), "big-endian");
}

TEST_F(GgufFile, EveryCutIsSeen) {
  GgufBuilder file;
  file.u32("k", 1)
      .text("t", "text")
      .array("a", 8, 2, gguf_text("x") + gguf_text("yy"))
      .floats("w", {3});
  const std::string good = file.build();
  EXPECT_NO_THROW(open(good));
  for (size_t size = 0; size < good.size(); ++size) refusal(good.substr(0, size));
}

TEST_F(GgufFile, CountsAreNotTrusted) {
  for (const uint64_t count : {uint64_t{1}, uint64_t{1} << 32, uint64_t{1} << 61, ~uint64_t{0}}) {
    GgufBuilder values, tensors;
    values.alignment = tensors.alignment = 1;  // no padding that could pass for entries
    values.value_count = count;
    EXPECT_REFUSED(values.build(), "the file is cut off or damaged");
    tensors.tensor_count = count;
    EXPECT_REFUSED(tensors.build(), "the file is cut off or damaged");
  }
}

TEST_F(GgufFile, MetadataIsChecked) {
  EXPECT_REFUSED(GgufBuilder().value("", 0, "x").build(),
                 "a metadata key of 0 bytes, 1 to 1024 are allowed");
  EXPECT_REFUSED(GgufBuilder().value(std::string(1025, 'k'), 0, "x").build(),
                 "a metadata key of 1025 bytes");
  EXPECT_REFUSED(GgufBuilder().value("k", 13, "x").build(), "metadata value of unknown type 13");
  EXPECT_REFUSED(GgufBuilder().u32("k", 1).u32("k", 2).build(), "metadata key 'k' stands twice");
  EXPECT_REFUSED(GgufBuilder().value("k", 8, bytes_of(~uint64_t{0})).build(),
                 "a metadata text at byte");
  EXPECT_REFUSED(GgufBuilder().value("k", 8, bytes_of(uint64_t{1} << 40)).build(),
                 "needs 1099511627776 bytes");
  EXPECT_REFUSED(GgufBuilder().array("k", 4, uint64_t{1} << 62, "").build(),
                 "array of 4611686018427387904 U32");
  EXPECT_REFUSED(GgufBuilder().array("k", 0, ~uint64_t{0}, "").build(),
                 "array of 18446744073709551615 U8");
  EXPECT_REFUSED(GgufBuilder().array("k", 8, ~uint64_t{0}, "").build(), "a text of an array");
  EXPECT_REFUSED(GgufBuilder().array("k", 13, 1, "x").build(), "metadata value of unknown type 13");
}

TEST_F(GgufFile, ArraysNestALittle) {
  const auto nested = [](int depth) {
    std::string elements;  // of the innermost array: none
    for (int i = 1; i < depth; ++i)
      elements =
          bytes_of(uint32_t{i == 1 ? 4u : 9u}) + bytes_of(uint64_t{i == 1 ? 0u : 1u}) + elements;
    return GgufBuilder().array("k", depth > 1 ? 9 : 4, depth > 1 ? 1 : 0, elements).build();
  };
  for (int depth = 1; depth <= 4; ++depth)
    EXPECT_EQ(open(nested(depth)).values().size(), 1u) << depth;
  EXPECT_REFUSED(nested(5), "metadata arrays nest deeper than 4");
  EXPECT_REFUSED(nested(10'000), "nest deeper");
}

TEST_F(GgufFile, TensorsAreChecked) {
  const auto one = [](const std::vector<uint64_t>& dimensions, uint32_t type, uint64_t offset = 0) {
    return GgufBuilder().tensor_at("w", dimensions, type, offset, std::string(64, '\0')).build();
  };
  EXPECT_REFUSED(one({}, 0), "tensor 'w' has 0 dimensions, 1 to 4 are allowed");
  EXPECT_REFUSED(one({1, 1, 1, 1, 1}, 0), "has 5 dimensions");
  EXPECT_REFUSED(one({0}, 0), "has a dimension of 0: an empty tensor");
  EXPECT_REFUSED(one({uint64_t{1} << 32, uint64_t{1} << 32}, 0), "larger than any file");
  EXPECT_REFUSED(one({uint64_t{1} << 62}, 0), "larger than any file");
  EXPECT_REFUSED(one({~uint64_t{0}, 2}, 0), "larger than any file");
  for (const uint32_t type : {4u, 5u, 31u, 38u, 42u, ~0u})
    EXPECT_REFUSED(one({32}, type), "has the unknown type");
  EXPECT_REFUSED(one({31}, 2),
                 "type Q4_0 has rows of 31 elements, which are no whole blocks of 32");
  EXPECT_REFUSED(one({16, 2}, 2), "rows of 16 elements");
  EXPECT_REFUSED(one({17}, 0), "takes 68 bytes at offset 0, the file holds 64 data bytes");
  EXPECT_REFUSED(one({16}, 0, 32), "takes 64 bytes at offset 32");
  EXPECT_REFUSED(one({1}, 0, uint64_t{1} << 63), "at offset 9223372036854775808");
  EXPECT_REFUSED(one({1}, 0, ~uint64_t{0} - 31), "takes 4 bytes at offset");
  EXPECT_REFUSED(one({1}, 0, 4), "tensor 'w' has offset 4, no multiple of 32");
  EXPECT_REFUSED(GgufBuilder().floats("", {1}).build(), "a tensor name of 0 bytes");
  EXPECT_REFUSED(GgufBuilder().floats("w", {1}).floats("w", {1}).build(),
                 "tensor 'w' stands twice");
  EXPECT_REFUSED(GgufBuilder()
                     .tensor_at("a", {16}, 0, 0, std::string(64, '\0'))
                     .tensor_at("b", {8}, 0, 32)
                     .build(),
                 "tensors 'a' and 'b' overlap");
  EXPECT_REFUSED(GgufBuilder()
                     .tensor_at("a", {8}, 0, 0, std::string(32, '\0'))
                     .tensor_at("b", {8}, 0, 0)
                     .build(),
                 "overlap");
  // A type that takes fewer bytes than the file holds for the tensor.
  EXPECT_REFUSED(GgufBuilder()
                     .tensor_at("a", {16}, 1, 0, std::string(64, '\0'))
                     .tensor_at("b", {8}, 0, 64, std::string(32, '\0'))
                     .build(),
                 "tensor 'b' begins at offset 64, but the one before it ends so that 32 is next");
  EXPECT_REFUSED(one({8}, 0, 32), "tensor 'w' begins at offset 32");
}

TEST_F(GgufFile, AlignmentIsReadAndChecked) {
  GgufBuilder file;
  file.alignment = 128;
  file.u32("general.alignment", 128).floats("a", {1}, 1.0f).floats("b", {1}, 2.0f);
  const GgufReader gguf = open(file.build());
  float out = 0;
  gguf.read_f32_rows(*gguf.find_tensor("b"), 0, 1, &out);
  EXPECT_EQ(out, 2.0f);
  for (const uint32_t alignment : {0u, 3u, 48u, 1u << 21, ~0u}) {
    EXPECT_REFUSED(GgufBuilder().u32("general.alignment", alignment).build(),
                   "a power of two up to 1048576 as U32");
  }
  EXPECT_REFUSED(GgufBuilder().value("general.alignment", 10, bytes_of(uint64_t{32})).build(),
                 "of type U64");
}

TEST_F(GgufFile, AVocabularyAloneIsAFile) {
  EXPECT_TRUE(open(GgufBuilder().u32("k", 1).build()).tensors().empty());
  EXPECT_TRUE(open(GgufBuilder().build()).values().empty());
}

}  // namespace
}  // namespace qlora::io
