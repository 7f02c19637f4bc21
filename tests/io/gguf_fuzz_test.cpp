#include "io/gguf.h"
#include "io/gguf_config.h"
#include "tests/io/mutate.h"
#include "tests/io/test_files.h"
#include "tests/support/fuzz.h"

namespace qlora::io {
namespace {

/// Uses everything that a reader offers, so that a lie that got through is felt.
int use(const GgufReader& gguf) {
  int used = 0;
  for (const GgufValue& value : gguf.values()) {
    try {
      if (value.type != GgufValueType::kArray) {
        used += gguf.find_number(value.key).has_value();
      } else if (value.element_type == GgufValueType::kString) {
        for (const std::string_view text : gguf.strings(value.key))
          used += text.empty() ? 0 : text.back() == 'x';
      } else {
        used += static_cast<int>(gguf.numbers(value.key).size() % 2);
      }
    } catch (const FormatError& another_type) {
      test::expect_one_line(another_type);
    }
  }
  for (const GgufTensor& tensor : gguf.tensors()) {
    std::vector<float> out(static_cast<size_t>(tensor.rows() * tensor.columns()));
    try {
      gguf.read_f32_rows(tensor, 0, tensor.rows(), out.data());
      used += out[0] > 0;
    } catch (const FormatError& type_that_is_not_read) {
      test::expect_one_line(type_that_is_not_read);
    }
  }
  return used;
}

void survive(const std::string& name, int rounds, uint64_t seed) {
  const TemporaryFolder folder;
  const std::string good = read_file(fixture(name));
  const auto header = static_cast<size_t>(
      GgufReader(fixture(name)).tensors().empty()
          ? good.size()
          : good.size() - GgufReader(fixture(name)).tensors().back().bytes.size());
  std::mt19937_64 random(seed);
  int read = 0, refused = 0;
  for (int i = 0; i < rounds; ++i) {
    const auto path = folder.put("a.gguf", mutate(good, std::min<size_t>(header, 4096), random));
    try {
      const GgufReader gguf(path);
      use(gguf);
      ++read;
      gguf_config(gguf);
    } catch (const Error& error) {
      ASSERT_EQ(std::string(error.what()).find('\n'), std::string::npos);
      ++refused;
    }
  }
  EXPECT_GT(read, rounds / 100);
  EXPECT_GT(refused, rounds / 4);
}

TEST(GgufFuzz, SurvivesDamagedMetadata) {
  survive("gguf/metadata.gguf", 6'000, 3);
}
TEST(GgufFuzz, SurvivesDamagedBlocks) {
  survive("gguf/blocks.gguf", 3'000, 4);
}
TEST(GgufFuzz, SurvivesADamagedModel) {
  survive("gguf/tiny_llama.gguf", 4'000, 5);
}

}  // namespace
}  // namespace qlora::io
