#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/parallel.h"
#include "core/rng.h"
#include "exporter/gguf_export.h"
#include "io/float_convert.h"
#include "io/gguf_dequant.h"
#include "io/safetensors.h"

namespace qlora::exporter {
namespace {

using io::GgmlType;

struct Kind {
  GgmlType type;
  const char* fixture;
  bool is_byte_exact;
};
constexpr Kind kKinds[] = {{GgmlType::kF16, "f16", true},
                           {GgmlType::kQ8_0, "q8_0", true},
                           {GgmlType::kQ4_0, "q4_0", true},
                           {GgmlType::kQ4_K, "q4_k_m", false}};

io::SafetensorsReader fixture(const std::string& kind) {
  return io::SafetensorsReader(QLORA_SOURCE_DIR "/tests/fixtures/export/gguf-" + kind +
                               ".safetensors");
}

/// The FP16 weights that llama.cpp quantized.
std::vector<float> fixture_weights() {
  const auto file = fixture("f16");
  const auto bytes = file.at("blocks").bytes;
  std::vector<float> weights(bytes.size() / 2);
  io::convert_to_f32(io::DType::kF16, bytes.data(), static_cast<int64_t>(weights.size()),
                     weights.data());
  return weights;
}

std::vector<std::byte> encode(GgmlType type, const std::vector<float>& w) {
  const io::GgmlTypeInfo& info = io::ggml_type_info(type);
  std::vector<std::byte> out(w.size() / static_cast<size_t>(info.block_elements) *
                             static_cast<size_t>(info.block_bytes));
  encode_ggml(type, w.data(), static_cast<int64_t>(w.size()), out.data());
  return out;
}

std::vector<float> decode(GgmlType type, std::span<const std::byte> bytes, size_t count) {
  std::vector<float> w(count);
  io::dequantize_ggml(type, bytes.data(), static_cast<int64_t>(count), w.data());
  return w;
}

double squared_error(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += (double(a[i]) - b[i]) * (double(a[i]) - b[i]);
  return sum;
}

std::vector<float> random_weights(size_t count, uint64_t seed, float scale) {
  Rng rng(seed, 0);
  std::vector<float> w(count);
  for (float& x : w) x = scale * static_cast<float>(rng.normal());
  return w;
}

TEST(GgufBlocks, AreLlamaCppsBytes) {
  const std::vector<float> weights = fixture_weights();
  ASSERT_EQ(weights.size(), 128u * 256u);
  for (const Kind& kind : kKinds) {
    const auto file = fixture(kind.fixture);
    const auto expected = file.at("blocks").bytes;
    const auto blocks = encode(kind.type, weights);
    ASSERT_EQ(blocks.size(), expected.size());
    if (kind.is_byte_exact) {
      EXPECT_EQ(std::memcmp(blocks.data(), expected.data(), blocks.size()), 0) << kind.fixture;
    }
  }
}

TEST(GgufBlocks, Q4_KIsNoWorseThanLlamaCpp) {
  const std::vector<float> weights = fixture_weights();
  const auto file = fixture("q4_k_m");
  const auto theirs = decode(GgmlType::kQ4_K, file.at("blocks").bytes, weights.size());
  const auto ours = decode(GgmlType::kQ4_K, encode(GgmlType::kQ4_K, weights), weights.size());
  const double our_error = squared_error(weights, ours), error = squared_error(weights, theirs);
  EXPECT_LE(our_error, error);
  EXPECT_GT(our_error, 0.5 * error);  // both are real
  RecordProperty("ratio", std::to_string(our_error / error));
  // The error that both minimise: squares weighted by rms + |w| of each sub-block.
  double our_weighted = 0, weighted = 0;
  for (size_t b = 0; b < weights.size(); b += 32) {
    double squares = 0;
    for (size_t i = b; i < b + 32; ++i) squares += double(weights[i]) * weights[i];
    for (size_t i = b; i < b + 32; ++i) {
      const double importance = std::sqrt(squares / 32) + std::fabs(weights[i]);
      our_weighted += importance * std::pow(double(weights[i]) - ours[i], 2);
      weighted += importance * std::pow(double(weights[i]) - theirs[i], 2);
    }
  }
  EXPECT_LE(our_weighted, weighted);
  RecordProperty("weighted_ratio", std::to_string(our_weighted / weighted));
}

// Largest error of one block, from its definition: half a step, and what FP16 scales add.
TEST(GgufBlocks, StayWithinTheirSteps) {
  for (const float scale : {1e-4f, 0.02f, 1.0f, 100.0f}) {
    const std::vector<float> w = random_weights(256 * 40, 7, scale);
    for (const Kind& kind : kKinds) {
      const auto back = decode(kind.type, encode(kind.type, w), w.size());
      for (size_t b = 0; b < w.size(); b += 256) {
        float most = 0;
        for (size_t i = b; i < b + 256; ++i) most = std::max(most, std::fabs(w[i]));
        // FP16 scales below 2^-14 are multiples of 2^-24: `coarse` is that times the largest code.
        const float coarse = 0x1p-25f * (kind.type == GgmlType::kQ4_K ? 63 * 16 : 127);
        // Q4_0: a positive extreme's mirror image ends at 7 of 8 steps. Q4_K: the range is at most
        // 2 most in 13.8 steps or more, the minimum has 6 bits.
        const float bound = kind.type == GgmlType::kF16    ? most * 0x1p-11f + 0x1p-25f
                            : kind.type == GgmlType::kQ8_0 ? most / 127 * 0.51f + most * 0x1p-10f
                            : kind.type == GgmlType::kQ4_0 ? most / 8 * 1.01f
                                                           : most * (2 / 13.8f * 0.75f + 1 / 63.0f);
        for (size_t i = b; i < b + 256; ++i) {
          ASSERT_LE(std::fabs(w[i] - back[i]), bound + coarse)
              << kind.fixture << " at " << i << ", " << w[i];
        }
      }
    }
  }
}

TEST(GgufBlocks, ConstantAndOddBlocksDecodeToThemselves) {
  std::vector<std::vector<float>> cases;
  for (const float value : {0.0f, -0.0f, 1.0f, -1.0f, 0.5f, 1e-7f, -1e-7f, 60000.0f, -60000.0f}) {
    cases.push_back(std::vector<float>(256, value));
  }
  std::vector<float> spike(256, 0.0f);
  spike[17] = -3.0f;
  cases.push_back(spike);
  for (int i = 0; i < 256; ++i) spike[static_cast<size_t>(i)] = i % 2 ? 1.0f : -1.0f;
  cases.push_back(spike);
  for (const auto& w : cases) {
    float most = 0;
    for (const float x : w) most = std::max(most, std::fabs(x));
    for (const Kind& kind : kKinds) {
      const auto back = decode(kind.type, encode(kind.type, w), w.size());
      const float bound = kind.type == GgmlType::kQ4_0 ? most / 8 * 1.01f : most * 0.02f;
      for (size_t i = 0; i < w.size(); ++i) {
        ASSERT_TRUE(std::isfinite(back[i])) << kind.fixture << " " << w[0];
        ASSERT_LE(std::fabs(w[i] - back[i]), bound + 1e-6f) << kind.fixture << " " << w[i];
      }
    }
  }
}

TEST(GgufBlocks, AreTheSameForEveryThreadCount) {
  const std::vector<float> w = random_weights(256 * 300, 3, 0.02f);
  const int threads = thread_count();
  for (const Kind& kind : kKinds) {
    set_thread_count(1);
    const auto one = encode(kind.type, w);
    set_thread_count(3);
    EXPECT_EQ(encode(kind.type, w), one) << kind.fixture;
  }
  set_thread_count(threads);
}

TEST(GgufBlocks, RefuseWhatFp16CannotHold) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(),
                          std::numeric_limits<float>::infinity(), 65505.0f, -70000.0f}) {
    std::vector<float> w(256, 0.5f);
    w[200] = bad;
    for (const Kind& kind : kKinds) EXPECT_THROW(encode(kind.type, w), ValueError) << bad;
  }
  EXPECT_THROW(encode(GgmlType::kQ6_K, std::vector<float>(256)), ValueError);
}

}  // namespace
}  // namespace qlora::exporter
