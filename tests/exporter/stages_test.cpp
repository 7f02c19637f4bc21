// Walking a model block by block, and what is measured on the way.
#include "exporter/stages.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "model/decoder.h"
#include "model/streaming.h"
#include "model/token_pass.h"
#include "tests/exporter/tiny_export.h"
#include "tests/support/errors.h"

namespace qlora::exporter {
namespace {

using namespace qlora::testing;  // the helpers of the tests

class Stages : public ::testing::Test {
 protected:
  Stages() {
    write_tiny_checkpoint(folder_ / "model", {.weight_scale = 0.2});
    loader_.emplace(options(), quant::Nf4Options{});
  }
  model::ModelOptions options() const {
    return {.model_path = (folder_ / "model").string(),
            .compute_dtype = model::ComputeDtype::kFloat32,
            .device = model::DeviceChoice::kCpu,
            .load_in_4bit = false,
            .cache_dir = ""};
  }
  TemporaryFolder folder_;
  std::optional<model::BlockLoader> loader_;
  NullLog log_;
};

TEST_F(Stages, StreamedStatesGiveTheDecodersLogits) {
  const auto decoder = model::Decoder::load(options(), {}, log_);
  const auto batches = tiny_export_data().evaluation;
  std::vector<int64_t> asked;
  const torch::Tensor hidden = model::streamed_hidden_states(
      *loader_,
      [&](int64_t i) {
        asked.push_back(i);
        return loader_->block(i);
      },
      batches, log_, "test");
  EXPECT_EQ(asked, (std::vector<int64_t>{0, 1}));
  const torch::Tensor head = loader_->lm_head(loader_->embedding());
  ASSERT_EQ(hidden.size(0), 4 * 48);
  for (int64_t i = 0; i < 4; ++i) {
    const torch::Tensor logits = hidden.narrow(0, i * 48, 48).mm(head.t());
    EXPECT_TRUE(
        torch::allclose(logits, decoder.logits(batches[static_cast<size_t>(i)]), 1e-4, 1e-4));
  }
}

TEST_F(Stages, BatchesThatDoNotFitAreRefused) {
  auto batches = tiny_export_data().evaluation;
  const auto walk = [&] {
    model::streamed_hidden_states(
        *loader_, [&](int64_t i) { return loader_->block(i); }, batches, log_, "test");
  };
  batches[0].segment_starts.back() = 40;
  EXPECT_THROW(walk(), ShapeError);
  batches[0].segment_starts.back() = 48;
  batches[0].tokens[3] = 264;
  EXPECT_THROW(walk(), ValueError);
}

TEST_F(Stages, NumbersThatAreNotFiniteAreNamed) {
  StageMeter meter(tiny_export_data().evaluation, log_);
  EXPECT_EQ(meter.tokens(), 4 * 47);
  const auto blocks = [&](int64_t i) { return loader_->block(i); };
  const auto good = meter.run({.name = "good"}, *loader_, blocks);
  meter.set_reference(good.states);
  EXPECT_EQ(*meter.compare(good).kl_divergence, 0);
  auto bad = good;
  bad.stage.name = "bad";
  bad.states.hidden = good.states.hidden.clone();
  bad.states.hidden.mutable_data_ptr<float>()[0] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_ERROR(ValueError, meter.compare(bad), "'bad'");
}

}  // namespace
}  // namespace qlora::exporter
