#include "exporter/compare.h"

#include <gtest/gtest.h>

#include <string>

#include "core/error.h"
#include "exporter/gguf_export.h"
#include "io/checkpoint.h"
#include "io/safetensors.h"
#include "tests/support/errors.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_checkpoint.h"

namespace qlora::exporter {
namespace {

namespace fs = std::filesystem;
using testing::TemporaryFolder;
using testing::write_text;

uint64_t bytes_of(const ModelSizes& sizes, TensorKind kind) {
  return sizes.kinds[static_cast<size_t>(kind)].bytes;
}

TEST(ModelSizes, PathsThatCannotBeLookedAtAreNamed) {
  const TemporaryFolder folder;
  EXPECT_ERROR(IoError, model_sizes(folder / "none"), "none does not exist");
  EXPECT_ERROR(IoError, model_sizes(folder / std::string(300, 'x')), "File name too long");
  fs::create_directory_symlink(folder / "loop", folder / "loop");
  EXPECT_ERROR(IoError, model_sizes(folder / "loop"), "Too many levels of symbolic links");
}

TEST(TensorKind, KnowsBothSpellings) {
  const std::pair<const char*, TensorKind> kCases[] = {
      {"model.embed_tokens.weight", TensorKind::kEmbedding},
      {"token_embd.weight", TensorKind::kEmbedding},
      {"lm_head.weight", TensorKind::kOutput},
      {"output.weight", TensorKind::kOutput},
      {"output_norm.weight", TensorKind::kNorm},
      {"blk.0.attn_norm.weight", TensorKind::kNorm},
      {"blk.0.ffn_norm.weight", TensorKind::kNorm},
      {"blk.0.attn_output.weight", TensorKind::kAttention},
      {"blk.0.ffn_down.weight", TensorKind::kMlp},
      {"model.layers.0.input_layernorm.weight", TensorKind::kNorm},
      {"model.layers.0.self_attn.q_proj.weight", TensorKind::kAttention},
      {"model.layers.0.self_attn.q_proj.qweight", TensorKind::kAttention},
      {"model.layers.0.self_attn.q_proj.qzeros", TensorKind::kScales},
      {"model.layers.0.mlp.up_proj.scales", TensorKind::kScales},
      {"model.layers.0.mlp.up_proj.weight_packed", TensorKind::kMlp},
      {"model.layers.0.mlp.up_proj.weight_scale", TensorKind::kScales},
      {"model.layers.0.mlp.up_proj.weight.quant_state.bitsandbytes__nf4", TensorKind::kScales},
      {"rope_freqs.weight", TensorKind::kOther}};
  for (const auto& [name, kind] : kCases) {
    EXPECT_EQ(tensor_kind(name), kind) << name << " is " << kind_text(tensor_kind(name));
  }
}

TEST(CompareModelSizes, CountsFilesAndTensors) {
  const TemporaryFolder folder;
  const fs::path original = folder / "original", file = folder / "small.gguf";
  testing::write_tiny_checkpoint(original);
  fs::create_directory(original / "below");
  write_text(original / "below" / "note.txt", std::string(1000, 'x'));
  const io::Checkpoint checkpoint(original);
  NullLog log;
  write_gguf(
      file, checkpoint.config(), original, {.type = io::GgmlType::kQ8_0},
      [&](const std::string& name, int64_t begin, int64_t count, float* out) {
        checkpoint.tensor_f32_rows(name, begin, count, out);
      },
      log);

  const SizeComparison c = compare_model_sizes(original, file);
  uint64_t total = 0, files = 0;
  for (const auto& item : fs::recursive_directory_iterator(original)) {
    if (!item.is_regular_file()) continue;
    total += item.file_size();
    ++files;
  }
  EXPECT_EQ(c.original.total_bytes, total);
  EXPECT_EQ(c.original.files, files);
  EXPECT_EQ(c.quantized.total_bytes, fs::file_size(file));
  EXPECT_DOUBLE_EQ(c.ratio(),
                   static_cast<double>(total) / static_cast<double>(fs::file_size(file)));
  EXPECT_DOUBLE_EQ(c.saved_percent(), 100 * (1 - 1 / c.ratio()));

  // Two blocks of C = 64, F = 128, 4 heads and 2 of 16, BF16; Q8_0 takes 34 bytes for 32.
  const uint64_t attention = 2 * (2 * 64 * 64 + 2 * 32 * 64), mlp = 2 * 3 * 64 * 128;
  EXPECT_EQ(bytes_of(c.original, TensorKind::kAttention), 2 * attention);
  EXPECT_EQ(bytes_of(c.original, TensorKind::kMlp), 2 * mlp);
  EXPECT_EQ(bytes_of(c.quantized, TensorKind::kAttention), attention / 32 * 34);
  EXPECT_EQ(bytes_of(c.quantized, TensorKind::kMlp), mlp / 32 * 34);
  EXPECT_EQ(bytes_of(c.original, TensorKind::kEmbedding), 2u * 264 * 64);
  EXPECT_EQ(bytes_of(c.original, TensorKind::kNorm), 2u * 5 * 64);
  uint64_t sum = 0;
  for (const KindSum& kind : c.original.kinds) sum += kind.bytes;
  EXPECT_EQ(sum, c.original.tensor_bytes);

  const auto j = to_json(c);
  EXPECT_EQ(j["original"]["bytes"], total);
  EXPECT_DOUBLE_EQ(j["original"]["gb"].get<double>() * 1e9, static_cast<double>(total));
  EXPECT_DOUBLE_EQ(j["original"]["gib"].get<double>() * 0x1p30, static_cast<double>(total));
  EXPECT_EQ(j["size_reduction_percent"], c.saved_percent());
  const std::string text = comparison_text(c);
  EXPECT_NE(text.find(" GB, "), std::string::npos);
  EXPECT_NE(text.find(" GiB"), std::string::npos);
  EXPECT_NE(text.find("attention"), std::string::npos);
}

TEST(CompareModelSizes, RefusesWhatHoldsNoModel) {
  const TemporaryFolder folder;
  EXPECT_THROW(model_sizes(folder / "nothing"), IoError);
  EXPECT_THROW(model_sizes(folder.path()), IoError);
  write_text(folder / "a.txt", "x");
  EXPECT_THROW(model_sizes(folder.path()), IoError);
  write_text(folder / "model.safetensors", "not one");
  EXPECT_THROW(model_sizes(folder.path()), FormatError);
}

}  // namespace
}  // namespace qlora::exporter
