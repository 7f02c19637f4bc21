// What a run trained on is what its export writes: the same integers, scales and zero points.
#include <ATen/ops/equal.h>
#include <ATen/ops/rand.h>

#include "core/parallel.h"
#include "exporter/weight_grids.h"
#include "lora/grid_files.h"
#include "quant/affine_math.h"
#include "quant/packed_affine.h"
#include "tests/exporter/export_fixture.h"
#include "tests/support/errors.h"

namespace qlora::exporter {
namespace {

using torch::Tensor;

struct TrainedCase {
  std::string name;
  QatOptions qat;
  GridOptions of_export = {};
};

void PrintTo(const TrainedCase& c, std::ostream* out) {
  *out << c.name;
}

QatOptions scheme(QatScheme scheme, MergeBase base, QatScales scales = QatScales::kMinMax,
                  std::optional<int64_t> bits = {}, std::optional<bool> symmetric = {}) {
  return {.scheme = scheme,
          .bits = bits,
          .group_size = GroupSize::k32,
          .symmetric = symmetric,
          .merge_base = base,
          .scales = scales};
}

std::vector<TrainedCase> cases() {
  using S = QatScheme;
  constexpr MergeBase kNf4 = MergeBase::kNf4, kOriginal = MergeBase::kOriginal;
  std::vector<TrainedCase> all = {
      {"awq", scheme(S::kInt4Awq, kNf4)},
      {"awq_original", scheme(S::kInt4Awq, kOriginal)},
      {"awq_clip", scheme(S::kInt4Awq, kNf4, QatScales::kClip)},
      {"awq_learned", scheme(S::kInt4Awq, kOriginal, QatScales::kLearned)},
      {"gptq", scheme(S::kInt4Gptq, kNf4)},
      {"gptq_asymmetric", scheme(S::kInt4Gptq, kOriginal, QatScales::kMinMax, 4, false)},
      {"gptq3_learned", scheme(S::kInt4Gptq, kNf4, QatScales::kLearned, 3)},
      {"gptq3_anchored", scheme(S::kInt4Gptq, kOriginal, QatScales::kAnchored, 3, false)},
      {"awq_anchored", scheme(S::kInt4Awq, kNf4, QatScales::kAnchored)},
      {"gptq2_clip_asymmetric", scheme(S::kInt4Gptq, kNf4, QatScales::kClip, 2, false)},
      {"int8_rows", {.scheme = S::kInt8, .merge_base = kOriginal}},
      {"int8_weights",
       {.scheme = S::kInt8, .group_size = GroupSize::k32, .activations = QatActivations::kNone}},
      {"fp8", {.scheme = S::kFp8}}};
  for (const bool symmetric : {true, false}) {
    TrainedCase v2{symmetric ? "gptq_v2" : "gptq_v2_asymmetric", {.scheme = S::kExport}};
    v2.of_export = {.type = QuantizationType::kRtn,
                    .format = ExportFormat::kGptqV2,
                    .group_size = GroupSize::k32,
                    .symmetric = symmetric,
                    .skip_modules = {"layers.1.mlp.up_proj"}};
    all.push_back(v2);
  }
  return all;
}

/// A run that is over: its adapter's folder holds grids as training leaves them.
class TrainedGrid : public ExportModel, public ::testing::WithParamInterface<TrainedCase> {
 protected:
  void SetUp() override {
    ExportModel::SetUp();
    testing::write_random_adapter(folder_ / "adapter", settings_);
    source_.adapter = (folder_ / "adapter").string();
    source_.qat = GetParam().qat;
    options_.grid = qat_grid(source_.qat, GetParam().of_export);
    options_.merge_base = source_.qat.merge_base;
  }
  void TearDown() override { set_thread_count(1); }

  model::ModelOptions base_options() const {
    return {.model_path = source_.model_path,
            .compute_dtype = model::ComputeDtype::kFloat32,
            .load_in_4bit = source_.qat.merge_base == MergeBase::kNf4,
            .exact_base = true};
  }
  /// The model as the last step left it.
  model::Decoder trained_model() {
    NullLog quiet;
    model::Decoder model = model::Decoder::load(base_options(), source_.four_bit, quiet);
    model.load_adapter(source_.adapter, lora::AdapterDtype::kFloat32);
    const Preflight checked = preflight(model.config(), options_.grid);
    model.set_grids(weight_grids(checked, source_.qat));
    model.fit_grids();
    at::manual_seed(5);
    for (const auto& [module, grid] : model.grids()) {
      if (grid.held == nullptr || !grid.held->factor.defined()) continue;
      const at::NoGradGuard no_graph;
      grid.held->factor.copy_(at::rand(grid.held->factor.sizes()) * 0.4 + 0.8);
    }
    model.set_fake_quant(true);
    return model;
  }
};

TEST_P(TrainedGrid, FilesHoldTheNumbersOfTheTrainedForward) {
  const model::Decoder model = trained_model();
  lora::write_grids(source_.adapter, model.grids());
  std::map<std::string, lora::Adapter> adapters;
  for (const auto& named : model.adapters()) adapters[named.module] = named.adapter;
  const model::BlockLoader base(base_options(), source_.four_bit);
  for (const int threads : {1, 2}) {
    options_.overwrite = true;
    set_thread_count(threads);
    const ExportResult result = run();
    const model::BlockLoader written = loader(result.model_path);
    for (const int readers : {1, 2}) {
      set_thread_count(readers);
      int64_t compared = 0;
      for (const auto& [module, grid] : model.grids()) {
        const lora::FrozenWeight weight = written.weight(module);
        const Tensor trained =
            lora::fake_quantized(base.weight(module), &adapters.at(module), grid, torch::kFloat32);
        EXPECT_TRUE(at::equal(weight.dense_copy(torch::kFloat32), trained))
            << module << ", " << threads << " and " << readers << " threads";
        ++compared;
        if (!weight.holds<quant::PackedAffine>()) continue;
        const quant::AffineTensor read = quant::unpack_affine(weight.as<quant::PackedAffine>());
        const auto& options = std::get<quant::AffineOptions>(grid.weight);
        EXPECT_GE(read.zeros.min().item<uint8_t>(), options.least_zero) << module;
        EXPECT_TRUE(at::equal(read.scales, read.scales.to(torch::kFloat16).to(torch::kFloat32)));
        if (grid.held == nullptr) continue;
        EXPECT_TRUE(at::equal(read.zeros, grid.held->zeros)) << module;
        EXPECT_TRUE(at::equal(read.scales, grid.held->effective(options.scale_type))) << module;
      }
      EXPECT_GE(compared, 20);
    }
  }
}

TEST_P(TrainedGrid, TheExportedModelIsTheTrainedOne) {
  model::Decoder model = trained_model();
  lora::write_grids(source_.adapter, model.grids());
  NullLog quiet;
  const double trained = eval::perplexity(model, data_.evaluation, quiet).perplexity;
  const ExportResult result = run();
  EXPECT_NEAR(perplexity(result.model_path) / trained, 1, 1e-3);
  const auto* as_trained = find_stage(result.report, StageKind::kAdapter);
  ASSERT_NE(as_trained, nullptr);
  EXPECT_NEAR(*as_trained->perplexity / trained, 1, 1e-5);
  EXPECT_NEAR(*chosen_stage(result.report)->perplexity / trained, 1, 1e-3);
  EXPECT_NE(result.report.grid.find("trained on this grid"), std::string::npos);
  EXPECT_TRUE(result.report.calibration.empty());
}

INSTANTIATE_TEST_SUITE_P(Schemes, TrainedGrid, ::testing::ValuesIn(cases()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace qlora::exporter
