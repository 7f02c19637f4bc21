#include "io/safetensors.h"
#include "tests/io/mutate.h"
#include "tests/io/test_files.h"
#include "tests/support/fuzz.h"

namespace qlora::io {
namespace {

/// Damaged files are refused with an Error or read as what they say; nothing else may happen.
TEST(SafetensorsFuzz, SurvivesDamage) {
  const TemporaryFolder folder;
  const std::string good = read_file(fixture("safetensors/all_types.safetensors"));
  std::mt19937_64 random(1);
  int read = 0, refused = 0;
  double sum = 0;
  for (int i = 0; i < 12'000; ++i) {
    const auto path = folder.put("a.safetensors", mutate(good, good.size() - 399, random));
    try {
      const SafetensorsReader reader(path);
      for (const TensorView& tensor : reader.tensors()) {
        std::vector<float> out(static_cast<size_t>(tensor.element_count()));
        if (is_float(tensor.dtype)) read_f32(tensor, 0, tensor.element_count(), out.data());
        for (const std::byte byte : tensor.bytes)
          sum += static_cast<double>(byte);  // every byte is readable
      }
      ++read;
    } catch (const FormatError& error) {
      ASSERT_EQ(std::string(error.what()).find('\n'), std::string::npos);
      ++refused;
    }
  }
  EXPECT_GT(read, 100);  // the mutations are not all fatal, so that both ways are tried
  EXPECT_GT(refused, 6'000);
  EXPECT_GT(sum, 0);
}

TEST(SafetensorsFuzz, SurvivesDamagedIndexes) {
  const TemporaryFolder folder;
  folder.put("s1.safetensors", read_file(fixture("safetensors/no_metadata.safetensors")));
  const std::string good =
      R"({"metadata": {"total_size": 24}, "weight_map": {"only": "s1.safetensors"}})";
  std::mt19937_64 random(2);
  int read = 0;
  for (int i = 0; i < 3'000; ++i) {
    folder.put("model.safetensors.index.json", mutate(good, good.size(), random));
    try {
      read += SafetensorsReader(folder.path()).tensors().size() == 1;
    } catch (const FormatError& damage) {
      test::expect_one_line(damage);
    } catch (const IoError& shard_that_is_not_there) {
      test::expect_one_line(shard_that_is_not_there);
    }
  }
  EXPECT_GT(read, 50);
}

}  // namespace
}  // namespace qlora::io
