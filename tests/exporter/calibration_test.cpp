// What calibration hands to the solvers: samples, activations, statistics, merged weights.
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <limits>

#include "core/error.h"
#include "exporter/activation_file.h"
#include "exporter/calibration_pass.h"
#include "exporter/calibration_set.h"
#include "exporter/merged_weights.h"
#include "exporter/statistics_sum.h"
#include "lora/merge.h"
#include "model/token_pass.h"
#include "quant/nf4.h"
#include "tests/exporter/tiny_export.h"
#include "tests/support/errors.h"
#include "tests/support/temporary_folder.h"

namespace qlora::exporter {
namespace {

using namespace qlora::testing;  // the helpers of the tests

// ---------------------------------------------------------------------- calibration set

data::ExampleSet rows(const std::vector<int64_t>& lengths) {
  data::ExampleSet set{.name = "rows.jsonl"};
  int32_t next = 0;
  for (const int64_t length : lengths) {
    data::Example example;
    for (int64_t t = 0; t < length; ++t) example.tokens.push_back(next++ % 97);
    set.examples.push_back(std::move(example));
  }
  return set;
}

TEST(CalibrationSet, ChoosesTheSameRowsForTheSameSeedInTheirOrder) {
  data::ExampleSet set = rows(std::vector<int64_t>(40, 20));
  for (size_t i = 0; i < 40; ++i) set.examples[i].tokens.assign(20, static_cast<int32_t>(i));
  RecordingLog log;
  const auto chosen = [&](uint64_t seed) {
    const CalibrationSet made = make_calibration_set(set, {.samples = 10, .seed = seed}, 100, log);
    EXPECT_EQ(made.samples, 10);
    EXPECT_EQ(made.available, 40);
    EXPECT_EQ(made.tokens, 200);
    std::vector<int32_t> ids;
    for (const TokenBatch& batch : made.batches) {
      for (size_t i = 0; i < batch.tokens.size(); i += 20) ids.push_back(batch.tokens[i]);
    }
    return ids;
  };
  const auto first = chosen(1);
  EXPECT_TRUE(std::is_sorted(first.begin(), first.end()));
  EXPECT_EQ(std::set<int32_t>(first.begin(), first.end()).size(), 10U);
  EXPECT_EQ(chosen(1), first);
  EXPECT_NE(chosen(2), first);
  EXPECT_TRUE(log.warnings.empty());
}

TEST(CalibrationSet, CutsCountsAndWarns) {
  RecordingLog log;
  const CalibrationSet set = make_calibration_set(rows({30, 0, 10, 31, 100}),
                                                  {.samples = 9, .max_seq_length = 30}, 100, log);
  EXPECT_EQ(set.samples, 4);
  EXPECT_EQ(set.tokens, 30 + 10 + 30 + 30);
  EXPECT_EQ(set.cut, 2);
  ASSERT_EQ(set.batches.size(), 1U);
  EXPECT_EQ(set.batches[0].segment_starts, (std::vector<int32_t>{0, 30, 40, 70, 100}));
  EXPECT_EQ(set.batches[0].targets, std::vector<int32_t>(100, kIgnoreTarget));
  EXPECT_TRUE(RecordingLog::says(log.warnings, "9 samples were asked for"));
  EXPECT_TRUE(RecordingLog::says(log.notices, "2 of 4 samples are longer than 30"));
}

TEST(CalibrationSet, BatchesAndBounds) {
  RecordingLog log;
  const CalibrationSet set = make_calibration_set(rows({3000, 1000, 200, 4000, 5000}),
                                                  {.samples = 5, .max_seq_length = 5000}, 100, log);
  ASSERT_EQ(set.batches.size(), 4U);  // 3000 + 1000 | 200 | 4000 | 5000, which is alone
  EXPECT_EQ(set.batches[0].tokens.size(), 4000U);
  EXPECT_EQ(set.batches[3].tokens.size(), 5000U);
  const CalibrationSet bounded =
      make_calibration_set(rows({30, 30, 30, 30}), {.samples = 4, .max_tokens = 50}, 100, log);
  EXPECT_EQ(bounded.samples, 2);
  EXPECT_TRUE(log.warnings.empty());
}

TEST(CalibrationSet, Refuses) {
  NullLog log;
  const auto refused = [&](const data::ExampleSet& set, int64_t vocabulary = 100) {
    return message_of<ValueError>([&] { make_calibration_set(set, {}, vocabulary, log); });
  };
  EXPECT_SAYS(refused(rows({})), "rows.jsonl gives 0 calibration samples");
  EXPECT_SAYS(refused(rows({8, 7})), "15 tokens in all, allowed at least 16");
  EXPECT_SAYS(refused(rows({20}), 19), "sample 0 has token 19 at position 19");
  data::ExampleSet negative = rows({20, 20});
  negative.examples[1].tokens[3] = -1;
  EXPECT_SAYS(refused(negative), "sample 1 has token -1 at position 3");
  make_calibration_set(rows({16}), {}, 100, log);
}

// --------------------------------------------------------------------- activation file

TEST(ActivationFile, RoundTrip) {
  const TemporaryFolder folder;
  torch::manual_seed(1);
  for (const auto dtype : {torch::kFloat32, torch::kBFloat16}) {
    const auto path = folder / std::string(c10::toString(dtype));
    const torch::Tensor values = torch::randn({10, 7}).to(dtype);
    {
      ActivationFile file(path, 10, 7, dtype);
      EXPECT_TRUE(torch::equal(file.read(0, 10), torch::zeros({10, 7}, dtype)));
      file.write(4, values.narrow(0, 4, 6));
      ActivationFile moved(std::move(file));
      moved.write(0, values.narrow(0, 0, 4));
      moved.sync();
      EXPECT_TRUE(torch::equal(moved.read(3, 2), values.narrow(0, 3, 2)));
    }
    const ActivationFile again(path, 10, 7, dtype);  // keeps what is there
    EXPECT_TRUE(torch::equal(again.read(0, 10), values));
    EXPECT_EQ(std::filesystem::file_size(path), 10U * 7U * elementSize(dtype));
  }
}

TEST(ActivationFile, FailsWithThePath) {
  const TemporaryFolder folder;
  const std::string text =
      message_of<IoError>([&] { ActivationFile(folder / "none" / "x", 1, 1, torch::kFloat32); });
  EXPECT_SAYS(text, "cannot be opened");
  EXPECT_SAYS(text, "none/x");
  ActivationFile file(folder / "cut", 8, 8, torch::kFloat32);
  std::filesystem::resize_file(folder / "cut", 100);
  EXPECT_SAYS(message_of<IoError>([&] { file.read(0, 8); }), "cannot be read");
}

TEST(ActivationFile, NoSpaceIsToldBeforeTheWork) {
  const TemporaryFolder folder;
  rlimit before;
  getrlimit(RLIMIT_FSIZE, &before);
  const rlimit small = {4096, before.rlim_max};
  const auto previous = std::signal(SIGXFSZ, SIG_IGN);
  ActivationFile file(folder / "fits", 4, 256, torch::kFloat32);
  setrlimit(RLIMIT_FSIZE, &small);
  const std::string text =
      message_of<IoError>([&] { ActivationFile(folder / "large", 5, 256, torch::kFloat32); });
  const rlimit none = {16, before.rlim_max};
  setrlimit(RLIMIT_FSIZE, &none);
  const std::string written = message_of<IoError>([&] { file.write(1, torch::ones({1, 256})); });
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, previous);
  EXPECT_SAYS(text, "needs 5120 bytes");
  EXPECT_SAYS(text, "work_dir with more space");
  EXPECT_SAYS(written, "cannot be written");
}

// -------------------------------------------------------------------------- statistics

TEST(StatisticsSum, EqualsTheDirectSums) {
  torch::manual_seed(2);
  for (const int64_t width : {5, 512, 700}) {
    const torch::Tensor x = torch::randn({130, width});
    StatisticsSum sum(width);
    sum.add(x.narrow(0, 0, 1));
    sum.add(x.narrow(0, 1, 129));
    const quant::LinearStatistics s = sum.result("x");
    EXPECT_EQ(s.tokens, 130);
    const torch::Tensor exact = x.to(torch::kFloat64);
    EXPECT_TRUE(torch::allclose(s.gram.to(torch::kFloat64), exact.t().mm(exact), 1e-5, 1e-3));
    EXPECT_TRUE(torch::equal(s.gram, s.gram.t()));
    EXPECT_TRUE(torch::allclose(s.abs_sum, x.abs().sum(0), 1e-5, 1e-4));
    EXPECT_TRUE(torch::equal(s.abs_max, std::get<0>(x.abs().max(0))));
  }
}

TEST(StatisticsSum, RefusesWhatIsNotFinite) {
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    torch::Tensor x = torch::ones({4, 3});
    x.mutable_data_ptr<float>()[5] = bad;
    StatisticsSum sum(3);
    sum.add(x);
    const std::string text = message_of<ValueError>([&] { sum.result("the site"); });
    EXPECT_SAYS(text, "the site");
    EXPECT_SAYS(text, "not finite");
  }
}

// -------------------------------------------------------------------- calibration pass

class Pass : public ::testing::Test {
 protected:
  Pass() {
    write_tiny_checkpoint(folder_ / "model", {.weight_scale = 0.2});
    loader_.emplace(model::ModelOptions{.model_path = (folder_ / "model").string(),
                                        .compute_dtype = model::ComputeDtype::kFloat32,
                                        .device = model::DeviceChoice::kCpu,
                                        .load_in_4bit = false,
                                        .cache_dir = ""},
                    quant::Nf4Options{});
  }
  CalibrationSet samples() const {
    NullLog log;
    return make_calibration_set(*tiny_export_data(7).calibration, {}, 264, log);
  }
  /// The same samples, one a batch.
  static CalibrationSet apart(const CalibrationSet& set) {
    CalibrationSet parts = set;
    parts.batches.clear();
    for (const TokenBatch& batch : set.batches) {
      for (size_t i = 0; i + 1 < batch.segment_starts.size(); ++i) {
        const int32_t begin = batch.segment_starts[i], end = batch.segment_starts[i + 1];
        TokenBatch one{.tokens = {batch.tokens.begin() + begin, batch.tokens.begin() + end},
                       .targets = std::vector<int32_t>(end - begin, kIgnoreTarget),
                       .segment_starts = {0, end - begin}};
        parts.batches.push_back(std::move(one));
      }
    }
    return parts;
  }
  torch::Tensor file(const std::string& name, int64_t rows, int64_t width) const {
    return ActivationFile(folder_ / name, rows, width, torch::kFloat32).read(0, rows);
  }

  TemporaryFolder folder_;
  std::optional<model::BlockLoader> loader_;
};

void expect_close(const quant::LinearStatistics& a, const quant::LinearStatistics& b) {
  EXPECT_EQ(a.tokens, b.tokens);
  const double largest = b.gram.abs().max().item<double>();
  EXPECT_TRUE(torch::allclose(a.gram, b.gram, 1e-5, 1e-5 * largest));
  EXPECT_TRUE(torch::allclose(a.abs_sum, b.abs_sum, 1e-4, 1e-4));
  EXPECT_TRUE(torch::allclose(a.abs_max, b.abs_max, 1e-5, 1e-5));
}

quant::LinearStatistics statistics_of(const torch::Tensor& x) {
  StatisticsSum sum(x.size(1));
  sum.add(x);
  return sum.result("direct");
}

TEST_F(Pass, SitesSeeWhatTheBlocksPartsMake) {
  const CalibrationSet set = samples();
  ASSERT_EQ(set.batches.size(), 1U);
  const TokenBatch& batch = set.batches[0];
  ASSERT_NE(batch.tokens.size() % 32, 0U) << "padding has to be there";
  const model::RopeTables rope(loader_->config());
  const auto layout = model::pass_layout(batch, rope, torch::kFloat32);  // not padded
  const at::NoGradGuard no_graph;
  torch::Tensor h = model::embed_tokens(loader_->embedding(), batch.tokens);
  const auto count = static_cast<int64_t>(batch.tokens.size());
  const int64_t padded = (count + 31) / 32 * 32;
  CalibrationPass pass(*loader_, set, folder_.path(), 0);
  for (int64_t i = 0; i < loader_->block_count(); ++i) {
    const model::DecoderBlock block = loader_->block(i);
    EXPECT_EQ(pass.block_index(), i);
    const auto x = block.attention_input(h, layout);
    expect_close(pass.advance(block, Site::kAttentionIn), statistics_of(x));
    const auto mixed = block.attention_mix(x, layout);
    expect_close(pass.advance(block, Site::kAttentionOut), statistics_of(mixed));
    const auto middle = block.add_attention(h, mixed, layout);
    const auto y = block.mlp_input(middle, layout);
    expect_close(pass.advance(block, Site::kMlpIn), statistics_of(y));
    expect_close(pass.advance(block, Site::kMlpOut), statistics_of(block.mlp_mix(y, layout)));
    pass.finish_block(block);
    h = block.forward(h, layout);
    const auto written = file(i % 2 == 0 ? "hidden-1.bin" : "hidden-0.bin", padded, 64);
    EXPECT_TRUE(torch::allclose(written.narrow(0, 0, count), h, 1e-4, 1e-5)) << i;
    pass.next_block();
  }
}

TEST_F(Pass, BatchesMakeNoDifferenceAndNeitherDoesRunBlock) {
  const CalibrationSet together = samples(), one_by_one = apart(together);
  ASSERT_EQ(one_by_one.batches.size(), 7U);
  std::filesystem::create_directories(folder_ / "a");
  std::filesystem::create_directories(folder_ / "b");
  CalibrationPass a(*loader_, together, folder_ / "a", 0);
  CalibrationPass b(*loader_, one_by_one, folder_ / "b", 0);
  for (int64_t i = 0; i < loader_->block_count(); ++i) {
    const model::DecoderBlock block = loader_->block(i);
    for (const Site site : kSites) expect_close(a.advance(block, site), b.advance(block, site));
    a.finish_block(block);
    b.run_block(block);
    a.next_block();
    b.next_block();
  }
}

TEST_F(Pass, GoesOnFromWhatAnotherLeft) {
  const CalibrationSet set = samples();
  CalibrationPass first(*loader_, set, folder_.path(), 0);
  const int64_t width = 64;
  first.run_block(loader_->block(0));
  first.next_block();
  EXPECT_TRUE(CalibrationPass::has_input(folder_.path(), 1, set, width));
  const auto expected = first.advance(loader_->block(1), Site::kAttentionIn);
  CalibrationPass second(*loader_, set, folder_.path(), 1);
  const auto got = second.advance(loader_->block(1), Site::kAttentionIn);
  EXPECT_TRUE(torch::equal(got.gram, expected.gram));
  std::filesystem::resize_file(folder_ / "hidden-1.bin", 100);
  EXPECT_FALSE(CalibrationPass::has_input(folder_.path(), 1, set, width));
  std::filesystem::remove(folder_ / "hidden-1.bin");
  EXPECT_FALSE(CalibrationPass::has_input(folder_.path(), 1, set, width));
}

TEST(SiteName, NamesTheLinears) {
  io::HfConfig config;
  EXPECT_EQ(site_name(config, 3, Site::kMlpIn), "model.layers.3.mlp.gate_proj, up_proj");
  EXPECT_EQ(site_name(config, 0, Site::kAttentionOut), "model.layers.0.self_attn.o_proj");
  config.arch.has_fused_projections = true;
  EXPECT_EQ(site_name(config, 1, Site::kAttentionIn), "model.layers.1.self_attn.qkv_proj");
}

// ---------------------------------------------------------------------- merged weights

TEST_F(Pass, MergedWeightsAreBasePlusChange) {
  write_random_adapter(folder_ / "adapter");
  auto adapter = lora::read_peft_adapter(folder_ / "adapter");
  const std::string untouched = "model.layers.1.mlp.up_proj", module = "model.layers.0.mlp.up_proj";
  adapter.modules.erase(untouched);
  for (const MergeBase base : {MergeBase::kOriginal, MergeBase::kNf4}) {
    const MergedWeights merged(*loader_, &adapter, base, {});
    const auto based = [&](const std::string& name) {
      const auto weight = loader_->source().tensor_f32(name + ".weight");
      return base == MergeBase::kOriginal
                 ? weight
                 : quant::dequantize_nf4(quant::quantize_nf4(weight, {}), torch::kFloat32);
    };
    const auto& m = adapter.modules.at(module);
    const torch::Tensor change = 2 * m.b.to(torch::kFloat64).mm(m.a.to(torch::kFloat64));
    const torch::Tensor expected = based(module).to(torch::kFloat64) + change;
    EXPECT_TRUE(torch::allclose(merged.weight(module).to(torch::kFloat64), expected, 1e-6, 1e-7));
    EXPECT_TRUE(torch::allclose(merged.change(module).to(torch::kFloat64), change, 1e-5, 1e-7));
    EXPECT_TRUE(torch::equal(merged.weight(untouched), based(untouched)));
    EXPECT_FALSE(merged.change(untouched).defined());
    const model::DecoderBlock block = merged.block(0);
    EXPECT_TRUE(
        torch::equal(block.up_proj.weight().dense_copy(torch::kFloat32), merged.weight(module)));
  }
  const MergedWeights plain(*loader_, nullptr, MergeBase::kOriginal, {});
  EXPECT_FALSE(plain.has_adapter());
  EXPECT_FALSE(plain.change(module).defined());
  EXPECT_TRUE(torch::equal(plain.weight(module), loader_->source().tensor_f32(module + ".weight")));
}

TEST_F(Pass, AdaptersOfAnotherBaseAreRefused) {
  write_random_adapter(folder_ / "adapter");
  const auto good = lora::read_peft_adapter(folder_ / "adapter");
  auto name = good;
  name.modules["model.layers.7.mlp.up_proj"] = good.modules.begin()->second;
  const std::string unknown = message_of<FormatError>([&] { check_adapter(name, *loader_); });
  EXPECT_SAYS(unknown, "model.layers.7.mlp.up_proj");
  EXPECT_SAYS(unknown, "trained on tiny");
  auto shape = good;
  shape.base_model.clear();
  shape.modules.at("model.layers.0.mlp.up_proj").b = torch::zeros({127, 4});
  const std::string other = message_of<ShapeError>([&] { check_adapter(shape, *loader_); });
  EXPECT_SAYS(other, "[127, 64], the model has [128, 64]");
  EXPECT_SAYS(other, "a base that it does not name");
}

}  // namespace
}  // namespace qlora::exporter
