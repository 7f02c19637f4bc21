#include "io/checkpoint.h"
#include "tests/io/test_files.h"

namespace qlora::io {
namespace {

/// Digest of a pretrained model's weights as gguf-py reads them;
/// tests/fixtures/gguf/smollm2_digest.py.
TEST(CheckpointSmollm2, EveryWeightEqualsGgufPy) {
  const auto path = std::filesystem::path(QLORA_SOURCE_DIR) / "models/smollm2-135m";
  if (!std::filesystem::exists(path)) GTEST_SKIP() << "no model; scripts/get_model.sh fetches it";
  const Checkpoint checkpoint(path);
  EXPECT_EQ(checkpoint.config().num_hidden_layers, 30);
  EXPECT_EQ(checkpoint.config().rope.theta, 1e5);
  EXPECT_TRUE(checkpoint.config().tie_word_embeddings);
  std::vector<std::string> lines;
  for (const std::string& name : checkpoint.names()) {
    const std::vector<int64_t>& shape = checkpoint.shape(name);
    const int64_t rows = shape.size() == 1 ? 1 : shape[0];
    std::vector<float> values(static_cast<size_t>(rows * shape.back()));
    checkpoint.tensor_f32_rows(name, 0, rows, values.data());
    checkpoint.release(name);
    lines.push_back(name + " " + sha256_hex(std::as_bytes(std::span(values))) + "\n");
  }
  std::sort(lines.begin(), lines.end());
  Sha256 digest;
  for (const std::string& line : lines) digest.update(line);
  EXPECT_EQ(digest.hex(), "99e7d684bfe09812ea343cd8d1cd043b5a9622fc94cd8cdd92337751ae81a032");
}

}  // namespace
}  // namespace qlora::io
