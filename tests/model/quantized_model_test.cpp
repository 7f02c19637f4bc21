// Whole quantized checkpoints: what is decoded on the fly gives the numbers of the decoded weights,
// and adapters train on top of it.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/run_log.h"
#include "lora/lora_options.h"
#include "model/decoder.h"
#include "model/weight_source.h"
#include "quant/input_quantizer.h"
#include "tests/model/packed_forms.h"
#include "tests/model/quantized_folder.h"
#include "tests/model/reference_tensors.h"
#include "tests/support/errors.h"
#include "tests/support/temporary_folder.h"

namespace qlora::model {
namespace {

using namespace qlora::testing;  // the helpers of the tests
using nlohmann::json;
using quant::GptqFormat;
using quant::TensorMap;
using torch::Tensor;

const std::vector<std::vector<int32_t>> kSequences = {{1, 7, 3, 9, 12, 63, 4, 4}, {5, 2, 8}};

struct Form {
  const char* name;
  json config;
  Packed (*pack)(const Tensor& weight);
  bool rounds_inputs = false;
};

std::vector<Form> forms() {
  using quant::FourBitType;
  return {
      {"gptq2", gptq_config(2), gptq<2, GptqFormat::kV1, false>},
      {"gptq3", gptq_config(3), gptq<3, GptqFormat::kV1, false>},
      {"gptq4", gptq_config(4), gptq<4, GptqFormat::kV1, false>},
      {"gptq8", gptq_config(8), gptq<8, GptqFormat::kV1, false>},
      {"gptq4_act_order", gptq_config(4, "gptq", true), gptq<4, GptqFormat::kV1, true>},
      {"gptq3_v2_act_order", gptq_config(3, "gptq_v2", true), gptq<3, GptqFormat::kV2, true>},
      {"awq", {{"quant_method", "awq"}, {"bits", 4}, {"group_size", 32}, {"version", "gemm"}}, awq},
      {"w4a16", compressed_config("pack-quantized", 4, "int", "group"),
       pack_quantized<4, kSymmetric>},
      {"w4a16_asym", compressed_config("pack-quantized", 4, "int", "group"),
       pack_quantized<4, kAsymmetric>},
      {"w8a16", compressed_config("pack-quantized", 8, "int", "group"),
       pack_quantized<8, kSymmetric>},
      {"w8a8",
       compressed_config("int-quantized", 8, "int", "channel", inputs("int", "token", true)),
       int_quantized, true},
      {"fp8_dynamic",
       compressed_config("float-quantized", 8, "float", "channel", inputs("float", "token", true)),
       float_quantized<false>, true},
      {"fp8_static",
       compressed_config("float-quantized", 8, "float", "tensor", inputs("float", "tensor", false)),
       float_quantized<true>, true},
      {"nf4", bnb_config("nf4"), bnb_four_bit<FourBitType::kNf4, true>},
      {"fp4", bnb_config("fp4"), bnb_four_bit<FourBitType::kFp4, false>},
      {"llm_int8",
       {{"quant_method", "bitsandbytes"}, {"load_in_8bit", true}, {"llm_int8_threshold", 2.0}},
       llm_int8,
       true},
  };
}

/// What the log was told.
class KeepingLog final : public RunLog {
 public:
  void notice(const std::string& text) override { notices += text + "\n"; }
  void warn(const std::string& text) override { warnings += text + "\n"; }
  void live(const std::string&) override {}
  void event(const std::string&, const json&) override {}
  std::string notices, warnings;
};

Decoder load(const std::filesystem::path& folder, RunLog& log, bool in_4bit = false) {
  return Decoder::load({.model_path = folder.string(),
                        .compute_dtype = ComputeDtype::kFloat32,
                        .load_in_4bit = in_4bit},
                       {}, log);
}

class QuantizedModel : public ::testing::TestWithParam<Form> {
 protected:
  void SetUp() override {
    torch::manual_seed(11);
    packed_ = plain_ = tiny_rest();
    for (const auto& linear : tiny_linears()) {
      const Tensor weight = torch::randn({linear.rows, linear.cols}) * 0.1;
      const Packed form = GetParam().pack(weight);
      for (const auto& [part, tensor] : form.parts) packed_[linear.module + "." + part] = tensor;
      plain_[linear.module + ".weight"] = form.weight;
    }
    json config = tiny_config();
    write_model(plain_folder(), config, plain_);
    config["quantization_config"] = GetParam().config;
    write_model(packed_folder(), config, packed_);
  }

  std::filesystem::path plain_folder() const { return folder_ / "plain"; }
  std::filesystem::path packed_folder() const { return folder_ / "packed"; }

  TemporaryFolder folder_;
  TensorMap packed_, plain_;
};

TEST_P(QuantizedModel, LogitsAreThoseOfTheDecodedWeights) {
  NullLog log;
  const Decoder packed = load(packed_folder(), log), plain = load(plain_folder(), log);
  const TokenBatch batch = joined(kSequences);
  const double error = relative_error(packed.logits(batch), plain.logits(batch));
  if (GetParam().rounds_inputs) {  // as an engine would, so the logits move a little
    EXPECT_GT(error, 1e-5);
    EXPECT_LT(error, 0.2);
  } else {
    EXPECT_LT(error, 1e-6);
  }
  const double loss = packed.target_nll(batch).sum().item<double>();
  EXPECT_NEAR(loss, plain.target_nll(batch).sum().item<double>(), 0.05 * loss);
  EXPECT_EQ(packed.parameter_count(), plain.parameter_count());
  EXPECT_LT(packed.base_bytes(), plain.base_bytes());
}

TEST_P(QuantizedModel, EveryLinearIsDecodedAndHeldPacked) {
  const WeightSource source(packed_folder());
  ASSERT_TRUE(source.is_quantized());
  for (const auto& linear : tiny_linears()) {
    EXPECT_TRUE(source.is_packed(linear.module));
    const Tensor& expected = plain_.at(linear.module + ".weight");
    EXPECT_TRUE(torch::allclose(source.tensor_f32(linear.module + ".weight"), expected, 1e-6, 0));
    const auto weight = source.packed(linear.module);
    EXPECT_TRUE(weight.is_quantized());
    EXPECT_EQ(weight.input_quantizer().has_value(), GetParam().rounds_inputs);
    EXPECT_LE(weight.bytes(), linear.rows * linear.cols * 5 / 4);
    for (const auto dtype : {torch::kFloat32, torch::kBFloat16, torch::kFloat16}) {
      EXPECT_TRUE(torch::equal(weight.dense(dtype), weight.dense_copy(dtype)));
    }
  }
  EXPECT_FALSE(source.is_packed("lm_head"));
  EXPECT_TRUE(torch::equal(source.tensor_f32("lm_head.weight"), plain_.at("lm_head.weight")));
}

TEST_P(QuantizedModel, AdaptersTrainOnTopWithTheGradientsOfTheDecodedWeights) {
  NullLog log;
  Decoder packed = load(packed_folder(), log), plain = load(plain_folder(), log);
  const TokenBatch batch = joined(kSequences);
  std::vector<std::vector<Tensor>> gradients;
  for (Decoder* decoder : {&packed, &plain}) {
    lora::LoraOptions options;
    options.r = 4;
    options.lora_dropout = 0;
    options.adapter_dtype = lora::AdapterDtype::kFloat32;
    decoder->add_adapters(options, 5);
    ASSERT_EQ(decoder->adapters().size(), 14u);
    torch::manual_seed(2);
    for (const auto& named : decoder->adapters()) {
      at::NoGradGuard no_grad;
      named.adapter.b.copy_(0.1 * torch::randn_like(named.adapter.b));  // else A has no gradient
    }
    decoder->loss_sum(batch, {.training = true}).backward();
    auto& list = gradients.emplace_back();
    for (const auto& parameter : decoder->trainable_parameters()) list.push_back(parameter.grad());
  }
  for (size_t i = 0; i < gradients[0].size(); ++i) {
    ASSERT_TRUE(gradients[0][i].isfinite().all().item<bool>());
    ASSERT_GT(gradients[0][i].abs().max().item<double>(), 0);
    const double error =
        ((gradients[0][i] - gradients[1][i]).norm() / gradients[1][i].norm()).item<double>();
    EXPECT_LT(error, GetParam().rounds_inputs ? 0.25 : 1e-5);
  }
}

TEST_P(QuantizedModel, GeneratesFromItsCache) {
  NullLog log;
  const Decoder decoder = load(packed_folder(), log);
  KvCache cache = decoder.new_cache(16);
  const std::vector<int32_t> prompt = {1, 7, 3};
  Tensor logits = decoder.next_logits(prompt, cache);
  const int32_t next = static_cast<int32_t>(logits.argmax().item<int64_t>());
  logits = decoder.next_logits({next}, cache);
  const Tensor whole = decoder.logits(joined({{1, 7, 3, next}})).select(0, 3);
  // Outliers are columns of a whole pass: a pass of one token has its own.
  const double bound = std::string(GetParam().name) == "llm_int8" ? 0.2 : 1e-4;
  EXPECT_LT(((logits - whole).abs().max() / whole.abs().max()).item<double>(), bound);
}

TEST_P(QuantizedModel, LoadIn4bitIsExplainedAndChangesNothing) {
  KeepingLog log;
  const Decoder asked = load(packed_folder(), log, /*in_4bit=*/true);
  EXPECT_NE(log.notices.find("stays as it is; load_in_4bit changes nothing"), std::string::npos);
  EXPECT_EQ(log.warnings, "");
  const TokenBatch batch = joined(kSequences);
  EXPECT_TRUE(torch::equal(asked.logits(batch), load(packed_folder(), log).logits(batch)));
}

INSTANTIATE_TEST_SUITE_P(Forms, QuantizedModel, ::testing::ValuesIn(forms()),
                         [](const auto& info) { return std::string(info.param.name); });

/// A folder of GPTQ linears that a test may change before it is written.
struct Folder {
  Folder() {
    torch::manual_seed(12);
    tensors = tiny_rest();
    for (const auto& linear : tiny_linears()) {
      const auto form = gptq<4, GptqFormat::kV1, false>(torch::randn({linear.rows, linear.cols}));
      for (const auto& [part, tensor] : form.parts) tensors[linear.module + "." + part] = tensor;
    }
    config["quantization_config"] = gptq_config(4);
  }
  std::filesystem::path write() const {
    write_model(folder.path(), config, tensors);
    return folder.path();
  }

  TemporaryFolder folder;
  json config = tiny_config();
  TensorMap tensors;
};

TEST(QuantizedModel, NumbersThatCannotBeAreRefusedByModule) {
  const std::string module = "model.layers.1.mlp.down_proj";
  const auto refused = [&](const char* part, const Tensor& tensor, const char* says) {
    Folder f;
    f.tensors[module + "." + part] = tensor;
    NullLog log;
    const auto text = message_of<FormatError>([&] { load(f.write(), log); });
    EXPECT_SAYS(text, module);
    EXPECT_SAYS(text, says);
  };
  refused("g_idx", torch::full({96}, 3, torch::kInt32), "groups 3 to 3");
  refused("scales", torch::full({3, 64}, INFINITY, torch::kFloat16), "NaN or infinity");
}

TEST(QuantizedModel, AFourBitStateOfAnotherShapeIsRefused) {
  Folder f;
  f.config["quantization_config"] = bnb_config("nf4");
  for (const auto& linear : tiny_linears()) {
    // As many elements as the config asks for, in another shape.
    const auto form =
        bnb_four_bit<quant::FourBitType::kNf4, true>(torch::randn({linear.cols, linear.rows}));
    for (const auto& [part, tensor] : form.parts) f.tensors[linear.module + "." + part] = tensor;
  }
  NullLog log;
  EXPECT_ERROR(FormatError, load(f.write(), log), "the 4-bit state says [64, 32]");
}

TEST(QuantizedModel, OldFoldersOfAutoGptqAreRead) {
  Folder f;
  NullLog log;
  const TokenBatch batch = joined(kSequences);
  const Tensor logits = load(f.write(), log).logits(batch);
  f.config.erase("quantization_config");
  const TemporaryFolder old;
  write_model(old.path(), f.config, f.tensors, "gptq_model-4bit-32g.safetensors");
  old.put("quantize_config.json",
          R"({"bits": 4, "group_size": 32, "damp_percent": 0.01, "desc_act": false, "sym": true,
              "true_sequential": true, "model_file_base_name": "gptq_model-4bit-32g"})");
  EXPECT_TRUE(torch::equal(load(old.path(), log).logits(batch), logits));
}

TEST(QuantizedModel, AQuantizedHeadIsDecodedAndAModuleLeftOutStays) {
  Folder f;
  const auto head = gptq<4, GptqFormat::kV1, false>(torch::randn({64, 64}) * 0.2);
  Folder plain_head;
  plain_head.tensors["lm_head.weight"] = head.weight;
  f.tensors.erase("lm_head.weight");
  for (const auto& [part, tensor] : head.parts) f.tensors["lm_head." + part] = tensor;
  const std::string module = "model.layers.0.mlp.up_proj";
  for (const char* part : {"qweight", "qzeros", "scales", "g_idx"}) {
    f.tensors.erase(module + "." + part);
    plain_head.tensors.erase(module + "." + part);
  }
  f.tensors[module + ".weight"] = plain_head.tensors[module + ".weight"] = torch::randn({96, 64});
  f.config["quantization_config"]["dynamic"] = {{"-:.*0\\.mlp\\.up_proj", json::object()}};
  NullLog log;
  const TokenBatch batch = joined(kSequences);
  EXPECT_TRUE(torch::equal(load(f.write(), log).logits(batch),
                           load(plain_head.write(), log).logits(batch)));
}

TEST(QuantizedModel, ScalesForACacheAreToldAndNotUsed) {
  Folder f;
  f.config["quantization_config"] = compressed_config("pack-quantized", 4, "int", "group");
  f.config["quantization_config"]["kv_cache_scheme"] = {{"num_bits", 8}, {"type", "float"}};
  for (const auto& linear : tiny_linears()) {
    const auto form = pack_quantized<4, kSymmetric>(torch::randn({linear.rows, linear.cols}));
    for (const auto& [part, tensor] : form.parts) f.tensors[linear.module + "." + part] = tensor;
  }
  f.tensors["model.layers.0.self_attn.k_scale"] = torch::ones({1});
  KeepingLog log;
  load(f.write(), log);
  EXPECT_NE(log.warnings.find("kv_cache_scheme"), std::string::npos);
}

/// Made by transformers and bitsandbytes (tests/fixtures/export/make_bnb_models.py).
class BitsandbytesModel : public ::testing::TestWithParam<const char*> {};

TEST_P(BitsandbytesModel, LogitsEqualTransformers) {
  const auto folder =
      std::filesystem::path(QLORA_SOURCE_DIR) / "tests/fixtures/export/bnb_models" / GetParam();
  const io::SafetensorsReader reference(folder / "reference.safetensors");
  NullLog log;
  const Decoder decoder = load(folder, log);
  const auto expected = load_tensor(reference, "logits");
  const auto logits = decoder.logits(joined({load_tokens(reference, "tokens")}));
  // Its kernels on the CPU multiply in BF16 and int8; ours in FP32 on the same codes.
  EXPECT_LT(relative_error(logits, expected), 0.04);
  // The decoded weights in a plain model: where inputs are not rounded, the numbers are the same.
  const auto decoded = load_tensor(reference, "logits_decoded");
  const bool rounds_inputs = std::string(GetParam()) == "int8";
  EXPECT_LT(relative_error(logits, decoded), rounds_inputs ? 0.04 : 1e-4);
}

INSTANTIATE_TEST_SUITE_P(Forms, BitsandbytesModel, ::testing::Values("nf4", "fp4", "int8"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace qlora::model
