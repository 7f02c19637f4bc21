#include "exporter/legality.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <string>

#include "core/error.h"
#include "io/atomic_file.h"
#include "tests/support/errors.h"

namespace qlora::exporter {
namespace {

using F = ExportFormat;
using Q = QuantizationType;

std::string error_of(const GridOptions& options) {
  return testing::refusal_of<ConfigError>([&] { resolve_grid(options); });
}

// Which bits and symmetries each pair of type and format has, written down a second time.
struct Legal {
  std::set<int64_t> bits;
  std::set<bool> symmetric;
};
const std::map<std::pair<Q, F>, Legal> kExpected = {
    {{Q::kAwq, F::kAwq}, {{4}, {false}}},
    {{Q::kAwq, F::kGptq}, {{2, 3, 4, 8}, {true, false}}},
    {{Q::kAwq, F::kGptqV2}, {{2, 3, 4, 8}, {true, false}}},
    {{Q::kAwq, F::kCompressedTensors}, {{4, 8}, {true}}},
    {{Q::kGptq, F::kGptq}, {{2, 3, 4, 8}, {true, false}}},
    {{Q::kGptq, F::kGptqV2}, {{2, 3, 4, 8}, {true, false}}},
    {{Q::kGptq, F::kAwq}, {{4}, {false}}},
    {{Q::kGptq, F::kCompressedTensors}, {{4, 8}, {true}}},
    {{Q::kSmoothquant, F::kCompressedTensors}, {{8}, {true}}},
    {{Q::kFp8, F::kCompressedTensors}, {{8}, {true}}},
    {{Q::kRtn, F::kGptq}, {{2, 3, 4, 8}, {true, false}}},
    {{Q::kRtn, F::kGptqV2}, {{2, 3, 4, 8}, {true, false}}},
    {{Q::kRtn, F::kAwq}, {{4}, {false}}},
    {{Q::kRtn, F::kCompressedTensors}, {{4, 8}, {true}}},
    {{Q::kRtn, F::kGguf}, {{4, 8}, {true, false}}},  // Q8_0 has no asymmetric form: below
    {{Q::kRtn, F::kNf4}, {{4}, {true}}},
    {{Q::kNone, F::kHf}, {{16}, {true, false}}},
    {{Q::kNone, F::kGguf}, {{16}, {true, false}}},
};

template <class E>
std::set<E> values_of() {
  std::set<E> values;
  for (const auto& [value, name] : EnumNames<E>::kNames) values.insert(value);
  return values;
}

TEST(ResolveGrid, AcceptsExactlyTheTable) {
  int accepted = 0, refused = 0;
  for (const Q type : values_of<Q>()) {
    for (const F format : values_of<F>()) {
      if (format == F::kAuto) continue;
      for (int64_t bits = 2; bits <= 16; ++bits) {
        for (const bool symmetric : {false, true}) {
          const GridOptions options{
              .type = type, .format = format, .bits = bits, .symmetric = symmetric};
          const auto row = kExpected.find({type, format});
          bool is_legal = row != kExpected.end() && row->second.bits.contains(bits) &&
                          row->second.symmetric.contains(symmetric);
          if (type == Q::kRtn && format == F::kGguf && bits == 8 && !symmetric) is_legal = false;
          const std::string error = error_of(options);
          EXPECT_EQ(error.empty(), is_legal)
              << describe({.type = type, .format = format, .bits = bits, .symmetric = symmetric})
              << ": " << error;
          if (error.empty()) {
            const ResolvedGrid grid = resolve_grid(options);
            EXPECT_EQ(grid.type, type);
            EXPECT_EQ(grid.format, format);
            EXPECT_EQ(grid.bits, bits);
            EXPECT_EQ(grid.symmetric, symmetric);
            ++accepted;
          } else {
            EXPECT_NE(error.find("legal for"), std::string::npos) << error;
            ++refused;
          }
        }
      }
    }
  }
  EXPECT_EQ(accepted, 67);  // awq 19, gptq 19, smoothquant 1, fp8 1, rtn 23, none 4
  EXPECT_EQ(refused, 6 * 7 * 15 * 2 - 67);
}

TEST(ResolveGrid, AutoMeansWhatTheDefaultLoadersRead) {
  struct Case {
    Q type;
    std::optional<int64_t> bits;
    F format;
    int64_t resolved_bits;
    bool symmetric;
  };
  const Case kCases[] = {
      {Q::kAwq, {}, F::kAwq, 4, false},
      {Q::kAwq, 8, F::kGptq, 8, true},
      {Q::kAwq, 3, F::kGptq, 3, true},
      {Q::kGptq, {}, F::kGptq, 4, true},
      {Q::kGptq, 2, F::kGptq, 2, true},
      {Q::kSmoothquant, {}, F::kCompressedTensors, 8, true},
      {Q::kFp8, {}, F::kCompressedTensors, 8, true},
      {Q::kRtn, {}, F::kGptq, 4, true},
      {Q::kNone, {}, F::kHf, 16, false},
  };
  for (const Case& c : kCases) {
    const ResolvedGrid grid = resolve_grid({.type = c.type, .bits = c.bits});
    EXPECT_EQ(grid.format, c.format) << name_of(c.type);
    EXPECT_EQ(grid.bits, c.resolved_bits) << name_of(c.type);
    EXPECT_EQ(grid.symmetric, c.symmetric) << name_of(c.type);
  }
  EXPECT_FALSE(error_of({.type = Q::kFp8, .bits = 4}).empty());
  EXPECT_FALSE(error_of({.type = Q::kNone, .bits = 4}).empty());
  EXPECT_FALSE(error_of({.type = Q::kAwq, .bits = 5}).empty());
}

TEST(ResolveGrid, GgufTypesSetTheBits) {
  EXPECT_EQ(resolve_grid({.type = Q::kRtn, .format = F::kGguf, .gguf_type = GgufType::kQ8_0}).bits,
            8);
  EXPECT_EQ(resolve_grid({.type = Q::kRtn, .format = F::kGguf, .gguf_type = GgufType::kQ4_K}).bits,
            4);
  EXPECT_EQ(resolve_grid({.type = Q::kNone, .format = F::kGguf}).gguf_type, GgufType::kF16);
  EXPECT_EQ(resolve_grid({.type = Q::kRtn, .format = F::kGguf, .bits = 8}).gguf_type,
            GgufType::kQ8_0);
  // Open until the shapes are known.
  EXPECT_EQ(resolve_grid({.type = Q::kRtn, .format = F::kGguf}).gguf_type, GgufType::kAuto);
  EXPECT_NE(
      error_of({.type = Q::kRtn, .format = F::kGguf, .gguf_type = GgufType::kQ8_0, .bits = 4}), "");
  EXPECT_NE(error_of({.type = Q::kNone, .format = F::kGguf, .gguf_type = GgufType::kQ8_0}), "");
  EXPECT_EQ(error_of({.type = Q::kRtn, .gguf_type = GgufType::kQ8_0}),
            "[export] gguf_type is q8_0, but the format is gptq; set format to gguf or leave "
            "gguf_type out");
}

TEST(ResolveGrid, SaysWhatIsLegal) {
  const std::string error = error_of({.type = Q::kAwq, .format = F::kGguf});
  EXPECT_NE(error.find("[export] awq in the format gguf at 4 bits is not legal; legal for awq: "
                       "awq as awq at 4 bits asymmetric, awq as gptq at 4/8/3/2 bits either"),
            std::string::npos)
      << error;
  EXPECT_NE(error.find("gguf is written for rtn, none"), std::string::npos) << error;
}

TEST(ResolveGrid, WholeRowsNeedANamedLoader) {
  const GridOptions rows{.type = Q::kGptq, .group_size = GroupSize::kPerRow};
  EXPECT_NE(error_of(rows).find("name the one that will read it"), std::string::npos);
  GridOptions named = rows;
  named.loader = Loader::kVllm;
  EXPECT_EQ(resolve_grid(named).group_size, GroupSize::kPerRow);
  named.type = Q::kAwq;
  EXPECT_NE(error_of(named).find("which vllm computes wrongly"), std::string::npos);
}

TEST(ResolveGrid, RefusesLoadersThatDoNotRead) {
  EXPECT_NE(error_of({.type = Q::kAwq, .loader = Loader::kLlamaCpp}), "");
  EXPECT_NE(error_of({.type = Q::kRtn, .format = F::kGguf, .loader = Loader::kVllm}), "");
  EXPECT_EQ(error_of({.type = Q::kRtn, .format = F::kGguf, .loader = Loader::kLlamaCpp}), "");
  EXPECT_EQ(error_of({.type = Q::kRtn, .format = F::kGguf, .loader = Loader::kTransformers}), "");
  EXPECT_NE(error_of({.type = Q::kFp8, .loader = Loader::kGptqmodel}), "");
  EXPECT_NE(error_of({.type = Q::kGptq, .format = F::kGptqV2, .loader = Loader::kVllm}), "");
}

TEST(ResolveGrid, RefusesGroupsWhereThereAreNone) {
  EXPECT_NE(error_of({.type = Q::kFp8, .group_size = GroupSize::k64}), "");
  EXPECT_NE(error_of({.type = Q::kRtn, .format = F::kNf4, .group_size = GroupSize::k128}), "");
  EXPECT_EQ(error_of({.type = Q::kRtn, .format = F::kNf4, .group_size = GroupSize::k64}), "");
  EXPECT_NE(error_of({.type = Q::kAwq, .static_fp8 = true}), "");
}

TEST(CheckColumnOrder, OnlyGptqWordsHoldIt) {
  const auto grid = [](F format) { return resolve_grid({.type = Q::kGptq, .format = format}); };
  EXPECT_NO_THROW(check_column_order(grid(F::kGptq), true));
  EXPECT_NO_THROW(check_column_order(grid(F::kGptqV2), true));
  EXPECT_NO_THROW(check_column_order(grid(F::kAwq), false));
  EXPECT_NO_THROW(check_column_order(resolve_grid({}), true));  // not GPTQ: it does not count
  EXPECT_THROW(check_column_order(grid(F::kAwq), true), ConfigError);
  EXPECT_THROW(check_column_order(grid(F::kCompressedTensors), true), ConfigError);
}

TEST(AffineOptions, FollowTheFormat) {
  using quant::GridRule;
  const auto options = [](Q type, F format, std::optional<bool> symmetric) {
    return affine_options(resolve_grid({.type = type, .format = format, .symmetric = symmetric}), 4,
                          64);
  };
  EXPECT_EQ(options(Q::kGptq, F::kGptq, false).least_zero, 1);  // stored as zero - 1
  EXPECT_EQ(options(Q::kGptq, F::kGptqV2, false).least_zero, 0);
  EXPECT_EQ(options(Q::kAwq, F::kAwq, {}).rule, GridRule::kAsymmetric);
  EXPECT_EQ(options(Q::kGptq, F::kGptq, {}).rule, GridRule::kSymmetricFull);
  EXPECT_EQ(options(Q::kSmoothquant, F::kAuto, {}).rule, GridRule::kSymmetric);
  EXPECT_EQ(options(Q::kGptq, F::kGptq, {}).group_size, 64);
}

TEST(LegalityTable, DocsAndHelpHoldEveryRow) {
  const std::string page = io::read_file(QLORA_SOURCE_DIR "/docs/export.md");
  EXPECT_NE(page.find(legality_markdown()), std::string::npos)
      << "docs/export.md holds a stale table; it has to hold:\n"
      << legality_markdown();
  const std::string help = legality_text();
  EXPECT_EQ(static_cast<size_t>(std::count(help.begin(), help.end(), '\n')),
            legal_rows().size() + 2);
}

}  // namespace
}  // namespace qlora::exporter
