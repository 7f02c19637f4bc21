// Against bitsandbytes' 8-bit quantizer: tests/fixtures/bnb/quant8, on every instruction set.
#include <gtest/gtest.h>

#include <cmath>

#include "io/sha256.h"
#include "quant/blockwise8_backend.h"
#include "tests/quant/cpu_case.h"
#include "tests/quant/fixture.h"
#include "tests/support/bnb_lookup8.h"

namespace qlora::quant {
namespace {

struct Case {
  std::string key;
  std::vector<float> values;  // in the case's type, widened
  DynamicMap map;
  int64_t block_size;
  std::string dequant_sha256;
};

std::vector<Case> all_cases() {
  const testing::BnbFixture inputs("quant4");
  std::vector<Case> cases;
  const auto document = testing::bnb_json("quant8");
  for (const auto& c : document) {
    const bool is_signed = c.at("signed") == "signed";
    auto values = inputs.get<float>("in." + c.at("in").get<std::string>());
    for (float& value : values) {
      if (!is_signed) value = std::abs(value);
      if (c.at("dtype") == "bfloat16") value = bf16_to_float(float_to_bf16(value));
    }
    cases.push_back({c.at("key"), values, is_signed ? DynamicMap::kSigned : DynamicMap::kUnsigned,
                     c.at("blocksize"), c.at("dequant_sha256")});
  }
  return cases;
}

class Blockwise8Bnb : public ::testing::TestWithParam<int64_t> {
 protected:
  Blockwise8Bnb() : fixture_("quant8"), use_(GetParam()) {}

  /// Where bitsandbytes' byte is the nearest code (or stands for the same number), ours is its.
  void compare(const std::string& key, const std::vector<float>& values, DynamicMap map,
               int64_t block_size) {
    const auto count = static_cast<int64_t>(values.size());
    std::vector<uint8_t> codes(count);
    std::vector<float> absmax((count + block_size - 1) / block_size);
    int64_t bad = kNoBadBlock;
    cpu::quantize_blockwise8({values.data(), FloatKind::kF32, count, block_size, map,
                              SignRule::kNearest, codes.data(), absmax.data(), &bad});
    EXPECT_EQ(absmax, fixture_.get<float>(key + ".absmax")) << key;
    const auto theirs = fixture_.get<uint8_t>(key + ".q");
    const DynamicTable& table = dynamic_table(map);
    for (int64_t i = 0; i < count; ++i) {
      const Blockwise8Scale scale = blockwise8_scale(absmax[i / block_size]);
      if (scale.absmax == 0) {
        ASSERT_EQ(codes[i], theirs[i]) << key;  // both 0
        continue;
      }
      const double x = blockwise8_normalize(values[i], scale);
      const double our_error = std::abs(x - table.levels[codes[i]]);
      const double their_error = std::abs(x - table.levels[theirs[i]]);
      ASSERT_LE(our_error, their_error) << key << " element " << i;
      const bool they_are_nearest = our_error == their_error;
      ASSERT_TRUE(codes[i] == theirs[i] || !they_are_nearest || codes[i] + 1 == theirs[i])
          << key << " element " << i;  // a tie: we take the lower
      ++elements_;
      nearest_ += they_are_nearest ? 1 : 0;
    }
  }

  testing::BnbFixture fixture_;
  testing::UseSimdTarget use_;
  int64_t elements_ = 0;
  int64_t nearest_ = 0;
};

TEST_P(Blockwise8Bnb, EqualWhereverBitsandbytesTakesTheNearestCode) {
  const auto cases = all_cases();
  ASSERT_EQ(cases.size(), 42u);
  for (const Case& c : cases) compare(c.key, c.values, c.map, c.block_size);
  RecordProperty("elements", static_cast<int>(elements_));
  RecordProperty("nearest_in_bitsandbytes", static_cast<int>(nearest_));
  EXPECT_GT(nearest_, elements_ * 9 / 10);
  EXPECT_LT(nearest_, elements_);  // its look-up does miss some
}

TEST_P(Blockwise8Bnb, EqualAroundMidpointsWhereverBitsandbytesTakesTheNearestCode) {
  for (const char* sign : {"signed", "unsigned"}) {
    const std::string key = std::string("q8ties.") + sign;
    compare(key, fixture_.get<float>(key + ".in"),
            sign[0] == 's' ? DynamicMap::kSigned : DynamicMap::kUnsigned, 4096);
  }
  EXPECT_GT(nearest_, elements_ / 2);
}

TEST_P(Blockwise8Bnb, DequantizedValuesAreEqual) {
  for (const Case& c : all_cases()) {
    const auto codes = fixture_.get<uint8_t>(c.key + ".q");
    const auto absmax = fixture_.get<float>(c.key + ".absmax");
    const bool is_bf16 = c.key.find("bfloat16") != std::string::npos;
    std::vector<std::byte> out(codes.size() * (is_bf16 ? 2 : 4));
    cpu::dequantize_blockwise8({codes.data(), absmax.data(), static_cast<int64_t>(codes.size()),
                                c.block_size, c.map, out.data(),
                                is_bf16 ? FloatKind::kBF16 : FloatKind::kF32});
    EXPECT_EQ(io::sha256_hex(out), c.dequant_sha256) << c.key;
  }
}

INSTANTIATE_TEST_SUITE_P(Targets, Blockwise8Bnb, ::testing::ValuesIn(testing::simd_targets()),
                         [](const auto& info) { return hwy::TargetName(info.param); });

/// The test-only copy of bitsandbytes' look-up, which replays its optimizer elsewhere, gives its
/// bytes here: what we deviate from is known exactly.
TEST(BnbLookup8, ReplaysAllFixturesByteForByte) {
  const testing::BnbFixture fixture("quant8");
  const testing::BnbLookup8 lookups[2] = {testing::BnbLookup8(signed_dynamic_table().levels),
                                          testing::BnbLookup8(unsigned_dynamic_table().levels)};
  auto cases = all_cases();
  for (const char* sign : {"signed", "unsigned"}) {
    const std::string key = std::string("q8ties.") + sign;
    cases.push_back({key, fixture.get<float>(key + ".in"),
                     sign[0] == 's' ? DynamicMap::kSigned : DynamicMap::kUnsigned, 4096, ""});
  }
  for (const Case& c : cases) {
    std::vector<uint8_t> codes(c.values.size());
    std::vector<float> absmax;
    for (size_t begin = 0; begin < c.values.size(); begin += c.block_size) {
      const size_t size = std::min<size_t>(c.block_size, c.values.size() - begin);
      absmax.push_back(lookups[c.map == DynamicMap::kSigned ? 0 : 1].quantize(
          std::span(c.values).subspan(begin, size), std::span(codes).subspan(begin, size)));
    }
    EXPECT_EQ(codes, fixture.get<uint8_t>(c.key + ".q")) << c.key;
    EXPECT_EQ(absmax, fixture.get<float>(c.key + ".absmax")) << c.key;
  }
}

}  // namespace
}  // namespace qlora::quant
