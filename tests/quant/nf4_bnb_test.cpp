// Byte for byte against bitsandbytes: tests/fixtures/bnb/quant4, on every instruction set.
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "io/sha256.h"
#include "quant/nf4_backend.h"
#include "tests/quant/cpu_case.h"
#include "tests/quant/fixture.h"

namespace qlora::quant {
namespace {

using testing::Numbers;

struct Case {
  std::string key;
  std::string input;
  FloatKind kind;
  FourBitType type;
  int64_t block_size;
  bool is_nested;
  std::string dequant_sha256;
};

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  const auto document = testing::bnb_json("quant4");
  for (const auto& c : document.at("cases")) {
    const std::string key = c.at("key");
    const std::string dtype = c.at("dtype");
    const size_t dot = key.find('.', 3);
    cases.push_back({key, "in." + key.substr(3, dot - 3),
                     dtype == "float32"   ? FloatKind::kF32
                     : dtype == "float16" ? FloatKind::kF16
                                          : FloatKind::kBF16,
                     c.at("quant_type") == "nf4" ? FourBitType::kNf4 : FourBitType::kFp4,
                     c.at("blocksize"), c.at("nested"), c.at("dequant_sha256")});
  }
  return cases;
}

class Nf4Bnb : public ::testing::TestWithParam<int64_t> {
 protected:
  Nf4Bnb() : fixture_("quant4"), use_(GetParam()) {}

  struct Result {
    std::vector<uint8_t> packed;
    std::vector<float> absmax;
  };

  Result quantize(const Case& c) const {
    const auto values = fixture_.get<float>(c.input);
    Numbers in(c.kind, values);
    const int64_t count = in.size();
    Result result{std::vector<uint8_t>((count + 1) / 2),
                  std::vector<float>((count + c.block_size - 1) / c.block_size)};
    int64_t bad = kNoBadBlock;
    cpu::quantize_nf4({in.data(), c.kind, count, c.block_size, c.type, result.packed.data(),
                       result.absmax.data(), &bad});
    EXPECT_EQ(bad, kNoBadBlock) << c.key;
    return result;
  }

  static float mean(const std::vector<float>& absmax) {
    const auto count = static_cast<int64_t>(absmax.size());
    std::vector<double> scratch(mean_scratch_size(count));
    float result = 0;
    cpu::mean({absmax.data(), count, scratch.data(), &result});
    return result;
  }

  testing::BnbFixture fixture_;
  testing::UseSimdTarget use_;
};

TEST_P(Nf4Bnb, PackedBytesAndAbsmaxAreEqualInAll104Cases) {
  const auto cases = all_cases();
  ASSERT_EQ(cases.size(), 104u);
  for (const Case& c : cases) {
    const Result got = quantize(c);
    EXPECT_EQ(got.packed, fixture_.get<uint8_t>(c.key + ".packed")) << c.key;
    if (!c.is_nested) {
      const auto absmax = fixture_.get<float>(c.key + ".absmax");
      ASSERT_EQ(got.absmax.size(), absmax.size()) << c.key;
      EXPECT_EQ(std::memcmp(got.absmax.data(), absmax.data(), 4 * absmax.size()), 0) << c.key;
    }
  }
}

TEST_P(Nf4Bnb, WithTheFixturesOffsetTheNestedScalesAreEqual) {
  int nested_cases = 0;
  for (const Case& c : all_cases()) {
    if (!c.is_nested) continue;
    ++nested_cases;
    const float offset = fixture_.get<float>(c.key + ".offset")[0];
    std::vector<float> centred = quantize(c).absmax;
    for (float& absmax : centred) absmax -= offset;
    const auto blocks = static_cast<int64_t>(centred.size());
    std::vector<uint8_t> codes(blocks);
    std::vector<float> nested((blocks + kNestedBlockSize - 1) / kNestedBlockSize);
    int64_t bad = kNoBadBlock;
    cpu::quantize_blockwise8({centred.data(), FloatKind::kF32, blocks, kNestedBlockSize,
                              DynamicMap::kSigned, SignRule::kNearest, codes.data(), nested.data(),
                              &bad});
    EXPECT_EQ(codes, fixture_.get<uint8_t>(c.key + ".absmax")) << c.key;
    EXPECT_EQ(nested, fixture_.get<float>(c.key + ".nested_absmax")) << c.key;
    const auto restored = fixture_.get<float>(c.key + ".absmax_restored");
    for (int64_t b = 0; b < blocks; ++b) {
      EXPECT_EQ(nf4_scale({nullptr, codes.data(), nested.data(), offset}, b), restored[b]);
    }
  }
  EXPECT_EQ(nested_cases, 48);
}

TEST_P(Nf4Bnb, DequantizedWeightsAreEqual) {
  for (const Case& c : all_cases()) {
    const auto packed = fixture_.get<uint8_t>(c.key + ".packed");
    const auto count = static_cast<int64_t>(fixture_.get<float>(c.input).size());
    Nf4Scales scales;
    std::vector<float> absmax, nested;
    std::vector<uint8_t> codes;
    if (c.is_nested) {
      codes = fixture_.get<uint8_t>(c.key + ".absmax");
      nested = fixture_.get<float>(c.key + ".nested_absmax");
      scales = {nullptr, codes.data(), nested.data(), fixture_.get<float>(c.key + ".offset")[0]};
    } else {
      absmax = fixture_.get<float>(c.key + ".absmax");
      scales.absmax = absmax.data();
    }
    std::vector<std::byte> out(count * testing::kind_bytes(c.kind));
    cpu::dequantize_nf4(
        {packed.data(), scales, c.type, c.block_size, 0, count, out.data(), c.kind});
    EXPECT_EQ(io::sha256_hex(out), c.dequant_sha256) << c.key;
  }
}

/// Our offset is summed in double in a fixed order, bitsandbytes' in float in torch's order.
TEST_P(Nf4Bnb, OffsetsAreAtMostOneUlpFromTheFixtures) {
  int equal = 0;
  for (const Case& c : all_cases()) {
    if (!c.is_nested) continue;
    const float theirs = fixture_.get<float>(c.key + ".offset")[0];
    const float ours = mean(quantize(c).absmax);
    const auto distance = static_cast<int64_t>(float_bits(ours)) - float_bits(theirs);
    EXPECT_LE(std::abs(distance), 1) << c.key << ": " << ours << " and " << theirs;
    equal += distance == 0 ? 1 : 0;
  }
  RecordProperty("equal_offsets", equal);
  EXPECT_GE(equal, 24);
}

INSTANTIATE_TEST_SUITE_P(Targets, Nf4Bnb, ::testing::ValuesIn(testing::simd_targets()),
                         [](const auto& info) { return hwy::TargetName(info.param); });

}  // namespace
}  // namespace qlora::quant
