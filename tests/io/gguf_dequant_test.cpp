#include "io/gguf_dequant.h"

#include <bit>
#include <cmath>

#include "io/gguf.h"
#include "io/safetensors.h"
#include "tests/io/test_files.h"

namespace qlora::io {
namespace {

void expect_same_floats(const std::vector<float>& actual, const std::vector<float>& expected,
                        const std::string& name) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    if (std::isnan(expected[i])) {
      ASSERT_TRUE(std::isnan(actual[i])) << name << " " << i;
    } else {
      ASSERT_EQ(std::bit_cast<uint32_t>(actual[i]), std::bit_cast<uint32_t>(expected[i]))
          << name << " " << i;
    }
  }
}

TEST(GgufDequant, EveryTypeEqualsGgufPyBitForBit) {
  const GgufReader gguf(fixture("gguf/blocks.gguf"));
  const SafetensorsReader floats(fixture("gguf/blocks.safetensors"));
  EXPECT_EQ(gguf.tensors().size(), 11u);
  for (const GgufTensor& tensor : gguf.tensors()) {
    const std::string name(tensor.name);
    EXPECT_EQ(ggml_type_info(tensor.type).name, name);
    std::vector<float> expected(static_cast<size_t>(tensor.rows() * tensor.columns())),
        actual(expected.size());
    read_f32(floats.at(name), 0, static_cast<int64_t>(expected.size()), expected.data());
    gguf.read_f32_rows(tensor, 0, tensor.rows(), actual.data());
    expect_same_floats(actual, expected, name);
    for (int64_t row = 0; row < tensor.rows(); ++row) {  // and row by row
      gguf.read_f32_rows(tensor, row, 1, actual.data() + row * tensor.columns());
    }
    expect_same_floats(actual, expected, name + " by rows");
  }
}

TEST(GgufDequant, BlocksOfLlamaCppsQuantizer) {
  const SafetensorsReader file(fixture("gguf/llama_cpp.safetensors"));
  const std::pair<std::string, GgmlType> kinds[] = {{"f16", GgmlType::kF16},
                                                    {"q4_0", GgmlType::kQ4_0},
                                                    {"q4_k_m", GgmlType::kQ4_K},
                                                    {"q8_0", GgmlType::kQ8_0}};
  for (const auto& [name, type] : kinds) {
    std::vector<float> expected(16 * 256), actual(16 * 256);
    read_f32(file.at(name + ".floats"), 0, 16 * 256, expected.data());
    dequantize_ggml(type, file.at(name + ".blocks").bytes.data(), 16 * 256, actual.data());
    expect_same_floats(actual, expected, name);
  }
}

TEST(GgufDequant, ReadsUnalignedBlocksAndWritesNothingMore) {
  const GgufReader gguf(fixture("gguf/blocks.gguf"));
  for (const GgufTensor& tensor : gguf.tensors()) {
    const int64_t count = tensor.columns();
    const GgmlTypeInfo& info = ggml_type_info(tensor.type);
    const auto bytes = static_cast<size_t>(count / info.block_elements * info.block_bytes);
    std::vector<std::byte> shifted(bytes + 1);
    std::memcpy(shifted.data() + 1, tensor.bytes.data() + 2 * bytes, bytes);
    std::vector<float> expected(static_cast<size_t>(count)),
        actual(static_cast<size_t>(count) + 1, 42.0f);
    gguf.read_f32_rows(tensor, 2, 1, expected.data());
    dequantize_ggml(tensor.type, shifted.data() + 1, count, actual.data());
    EXPECT_EQ(actual.back(), 42.0f) << tensor.name;
    actual.pop_back();
    expect_same_floats(actual, expected, std::string(tensor.name));
  }
}

TEST(GgufDequant, RefusesOtherTypesAndBrokenBlocks) {
  float out[256];
  const std::byte data[512] = {};
  EXPECT_MESSAGE(ValueError, dequantize_ggml(static_cast<GgmlType>(10), data, 256, out),
                 "type Q2_K are not read; F32");
  EXPECT_MESSAGE(ValueError, dequantize_ggml(static_cast<GgmlType>(4), data, 32, out),
                 "4 is the number of no GGUF");
  EXPECT_MESSAGE(ValueError, dequantize_ggml(GgmlType::kQ4_0, data, 31, out),
                 "31 elements of type Q4_0 are no whole");
  EXPECT_MESSAGE(ValueError, dequantize_ggml(GgmlType::kQ4_0, data, -32, out),
                 "no whole blocks of 32");
  EXPECT_NO_THROW(dequantize_ggml(GgmlType::kQ4_0, data, 0, out));
}

TEST(GgmlType, KnowsTheListOfGgufPy) {
  // number, elements, bytes: gguf-py 0.19, GGML_QUANT_SIZES without Q8_1
  constexpr int64_t kList[][3] = {
      {0, 1, 4},      {1, 1, 2},     {2, 32, 18},    {3, 32, 20},    {6, 32, 22},    {7, 32, 24},
      {8, 32, 34},    {10, 256, 84}, {11, 256, 110}, {12, 256, 144}, {13, 256, 176}, {14, 256, 210},
      {15, 256, 292}, {16, 256, 66}, {17, 256, 74},  {18, 256, 98},  {19, 256, 50},  {20, 32, 18},
      {21, 256, 110}, {22, 256, 82}, {23, 256, 136}, {24, 1, 1},     {25, 1, 2},     {26, 1, 4},
      {27, 1, 8},     {28, 1, 8},    {29, 256, 56},  {30, 1, 2},     {34, 256, 54},  {35, 256, 66},
      {39, 32, 17},   {40, 64, 36},  {41, 128, 18}};
  int known = 0;
  for (uint32_t id = 0; id < 1000; ++id) known += find_ggml_type(id) != nullptr;
  EXPECT_EQ(known, std::ssize(kList));
  for (const auto& [id, elements, bytes] : kList) {
    const GgmlTypeInfo* info = find_ggml_type(static_cast<uint32_t>(id));
    ASSERT_NE(info, nullptr) << id;
    EXPECT_EQ(info->block_elements, elements) << id;
    EXPECT_EQ(info->block_bytes, bytes) << id;
  }
}

/// llama.cpp's converter: reshape(n, 2, D/2, K).swapaxes(1, 2), then the rows in order.
TEST(RopeRows, UndoesTheConverter) {
  for (const int64_t head_dim : {2, 4, 16, 64}) {
    for (const int64_t heads : {1, 3}) {
      const int64_t rows = heads * head_dim, columns = 5;
      std::vector<float> original(static_cast<size_t>(rows * columns)), converted,
          back(original.size());
      for (size_t i = 0; i < original.size(); ++i) original[i] = static_cast<float>(i);
      for (int64_t head = 0; head < heads; ++head) {
        for (int64_t j = 0; j < head_dim / 2; ++j) {
          for (int64_t half = 0; half < 2; ++half) {
            const int64_t row = head * head_dim + half * (head_dim / 2) + j;
            converted.insert(converted.end(), original.begin() + row * columns,
                             original.begin() + (row + 1) * columns);
          }
        }
      }
      unpermute_rope_rows(converted.data(), rows, columns, head_dim, back.data());
      EXPECT_EQ(back, original) << head_dim;
    }
  }
}

TEST(RopeRows, RefusesHeadsThatDoNotFit) {
  float in[8] = {}, out[8];
  EXPECT_MESSAGE(ValueError, unpermute_rope_rows(in, 8, 1, 3, out),
                 "8 rows are no whole heads of 3");
  EXPECT_MESSAGE(ValueError, unpermute_rope_rows(in, 6, 1, 4, out),
                 "6 rows are no whole heads of 4");
  EXPECT_MESSAGE(ValueError, unpermute_rope_rows(in, 8, 1, 0, out), "no whole heads of 0");
  EXPECT_MESSAGE(ValueError, unpermute_rope_rows(in, -4, 1, 4, out), "no whole heads");
}

}  // namespace
}  // namespace qlora::io
