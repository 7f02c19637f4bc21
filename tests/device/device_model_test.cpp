// The decoder on a device: every operation and whole models, against the CPU.
#include <ATen/Context.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/error.h"
#include "model/activation_offload.h"
#include "model/attention.h"
#include "model/decoder.h"
#include "model/device_choice.h"
#include "model/load.h"
#include "model/loss_head.h"
#include "model/neftune.h"
#include "model/rms_norm.h"
#include "model/rope.h"
#include "model/swiglu.h"
#include "model/token_pass.h"
#include "tests/device/compare.h"
#include "tests/support/errors.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_checkpoint.h"

namespace qlora::model {
namespace {

using testing::expect_same;
using testing::kDevice;
using testing::kTypes;
using testing::relative_error;
using torch::Tensor;

double bound_of(torch::ScalarType dtype) {
  return testing::rounding_bound(dtype, 1);
}

using Op = std::function<Tensor(const std::vector<Tensor>&)>;

/// Result and gradients of an operation on a device.
std::vector<Tensor> with_gradients(const Op& op, const std::vector<Tensor>& inputs,
                                   torch::Device device) {
  std::vector<Tensor> leaves;
  for (const Tensor& input : inputs) {
    leaves.push_back(input.to(device).detach().clone().requires_grad_(true));
  }
  const Tensor y = op(leaves);
  EXPECT_EQ(y.device(), device);
  at::manual_seed(99);
  const Tensor dy = at::randn(y.sizes()).to(y.scalar_type());
  torch::autograd::backward({y}, {dy.to(device)});
  std::vector<Tensor> results = {y};
  for (const Tensor& leaf : leaves) results.push_back(leaf.grad());
  return results;
}

void expect_as_on_the_cpu(const Op& op, const std::vector<Tensor>& inputs, double bound) {
  const auto here = with_gradients(op, inputs, torch::kCPU);
  const auto there = with_gradients(op, inputs, kDevice);
  ASSERT_EQ(here.size(), there.size());
  for (size_t i = 0; i < here.size(); ++i) {
    EXPECT_EQ(there[i].scalar_type(), here[i].scalar_type());
    EXPECT_LE(relative_error(there[i], here[i]), bound) << "result " << i;
  }
}

class DeviceModel : public testing::DeviceTest {};

TEST_F(DeviceModel, Norms) {
  const Tensor weight = at::randn({40});
  for (const auto dtype : kTypes) {
    expect_as_on_the_cpu(
        [&](const auto& in) { return rms_norm(in[0], weight.to(in[0].device()), 1e-5, dtype); },
        {at::randn({9, 40})}, bound_of(dtype));
  }
}

TEST_F(DeviceModel, Activations) {
  for (const auto activation : {io::Activation::kSilu, io::Activation::kGeluTanh}) {
    for (const auto dtype : kTypes) {
      expect_as_on_the_cpu([&](const auto& in) { return swiglu(in[0], in[1], activation); },
                           {at::randn({9, 40}).to(dtype), at::randn({9, 40}).to(dtype)},
                           bound_of(dtype));
    }
  }
}

TEST_F(DeviceModel, Rotations) {
  const RopeAngles angles{at::randn({9, 8}), at::randn({9, 8})};
  for (const auto dtype : kTypes) {
    expect_as_on_the_cpu(
        [&](const auto& in) {
          const auto device = in[0].device();
          return apply_rope(in[0], {angles.cos.to(device), angles.sin.to(device)}, 16);
        },
        {at::randn({9, 48}).to(dtype)}, bound_of(dtype));
  }
}

TEST_F(DeviceModel, AttentionInEveryForm) {
  const std::vector<int32_t> segments = {0, 5, 6, 38, 64};
  const AttentionOptions plain{.head_dim = 16};
  const AttentionOptions scaled{.head_dim = 16, .scale = 0.1};
  const AttentionOptions windowed{.head_dim = 16, .window = 7};
  const AttentionOptions capped{.head_dim = 16, .softcap = 2};
  const AttentionOptions both{.head_dim = 16, .window = 7, .softcap = 2};
  for (const auto dtype : kTypes) {
    for (const auto& options : {plain, scaled, windowed, capped, both}) {
      SCOPED_TRACE(fmt::format("{} window {} cap {}", c10::toString(dtype), options.window,
                               options.softcap));
      at::manual_seed(5);
      // The CPU's half products round the scores as well: one more rounding than an operation has.
      expect_as_on_the_cpu(
          [&](const auto& in) { return attention(in[0], in[1], in[2], segments, options); },
          {at::randn({64, 64}).to(dtype), at::randn({64, 32}).to(dtype),
           at::randn({64, 32}).to(dtype)},
          2 * bound_of(dtype));
    }
  }
}

TEST_F(DeviceModel, AttentionBehindACache) {
  for (const int64_t window : {0, 5}) {
    for (const double softcap : {0.0, 2.0}) {
      for (const int64_t fresh : {1, 4}) {
        const AttentionOptions options{.head_dim = 16, .window = window, .softcap = softcap};
        const Tensor q = at::randn({fresh, 64}), k = at::randn({2, 12, 16}),
                     v = at::randn({2, 12, 16});
        EXPECT_LE(
            relative_error(cached_attention(q.to(kDevice), k.to(kDevice), v.to(kDevice), options),
                           cached_attention(q, k, v, options)),
            1e-6)
            << window << " " << softcap << " " << fresh;
      }
    }
  }
}

TEST_F(DeviceModel, LossAndItsGradient) {
  const std::vector<int32_t> targets = {3, kIgnoreTarget, 0, 60, 7, kIgnoreTarget, 12};
  for (const auto dtype : kTypes) {
    for (const double softcap : {0.0, 5.0}) {
      const Tensor head = at::randn({61, 40}).to(dtype);
      expect_as_on_the_cpu(
          [&](const auto& in) {
            return target_loss_sum(in[0], head.to(in[0].device()), targets, softcap);
          },
          {at::randn({7, 40}).to(dtype)}, bound_of(dtype));
      const Tensor hidden = at::randn({7, 40}).to(dtype);
      EXPECT_LE(
          relative_error(target_losses(hidden.to(kDevice), head.to(kDevice), targets, softcap),
                         target_losses(hidden, head, targets, softcap)),
          bound_of(dtype));
    }
  }
}

TEST_F(DeviceModel, EmbeddingAndNoise) {
  const Tensor embedding = at::randn({20, 8});
  Tensor here = embed_tokens(embedding, {3, 19, 0, 3}, 2);
  Tensor there = embed_tokens(embedding.to(kDevice), {3, 19, 0, 3}, 2);
  expect_same(there, here);
  add_neftune_noise(here, {0, 3, 4}, 5, 1, 2);
  add_neftune_noise(there, {0, 3, 4}, 5, 1, 2);
  expect_same(there, here);
}

TEST_F(DeviceModel, OperationsOnTwoDevicesAreRefusedByName) {
  const Tensor x = at::randn({3, 8}).to(kDevice), here = at::randn({3, 8});
  const char* const said = "tensors lie on cuda:0 and cpu";
  EXPECT_ERROR(DeviceError, rms_norm(x, at::randn({8}), 1e-5, torch::kFloat32), said);
  EXPECT_ERROR(DeviceError, swiglu(x, here), said);
  EXPECT_ERROR(DeviceError, apply_rope(x, {at::randn({3, 4}), at::randn({3, 4})}, 8), said);
  EXPECT_ERROR(DeviceError, attention(x, here, here, {0, 3}, {.head_dim = 8}), said);
  EXPECT_ERROR(DeviceError, target_loss_sum(x, at::randn({5, 8}), {0, 1, 2}), said);
}

TEST_F(DeviceModel, TheChoiceOfTheDeviceTurnsTf32AndCudnnsAttentionOff) {
  at::globalContext().setAllowTF32CuBLAS(true);
  at::globalContext().setSDPUseCuDNN(true);
  const ChosenDevice chosen = choose_device(DeviceChoice::kCuda);
  EXPECT_EQ(chosen.device, kDevice);
  ASSERT_TRUE(chosen.notice.has_value());
  EXPECT_TRUE(chosen.notice->starts_with("device: ")) << *chosen.notice;
  EXPECT_FALSE(at::globalContext().allowTF32CuBLAS());
  EXPECT_FALSE(at::globalContext().allowTF32CuDNN());
  EXPECT_FALSE(at::globalContext().userEnabledCuDNNSDP());
  EXPECT_EQ(at::globalContext().allowBF16ReductionCuBLAS(),
            at::CuBLASReductionOption::DisallowReducedPrecisionAllowSplitK);
  EXPECT_EQ(choose_device(DeviceChoice::kAuto).device, kDevice);
  EXPECT_EQ(choose_device(DeviceChoice::kCpu).device, torch::Device(torch::kCPU));
  EXPECT_TRUE(may_be_cuda(DeviceChoice::kAuto));
  EXPECT_EQ(resolve_compute_dtype(ComputeDtype::kAuto, true), torch::kBFloat16);
  EXPECT_EQ(resolve_compute_dtype(ComputeDtype::kFloat16, true), torch::kFloat16);
}

// ---- Whole models ----

/// A family: what is laid over the tiny Llama's config.json.
struct Family {
  const char* name;
  const char* changes;
};

const Family kFamilies[] = {
    {"llama", "{}"},
    {"qwen2", R"({"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]})"},
    {"gemma2", R"({"model_type": "gemma2", "architectures": ["Gemma2ForCausalLM"], "head_dim": 16,
                   "query_pre_attn_scalar": 16, "hidden_act": null, "sliding_window": 8,
                   "attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0})"},
    {"gemma3", R"({"model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"],
                   "head_dim": 16, "query_pre_attn_scalar": 16, "hidden_act": null,
                   "sliding_window": 8, "num_hidden_layers": 6})"},
    {"phi3", R"({"model_type": "phi3", "architectures": ["Phi3ForCausalLM"],
                 "num_key_value_heads": 4})"},
    {"mixtral", R"({"model_type": "mixtral", "architectures": ["MixtralForCausalLM"],
                    "num_local_experts": 4})"}};

void PrintTo(const Family& family, std::ostream* out) {
  *out << family.name;
}

class DeviceFamily : public testing::DeviceTest, public ::testing::WithParamInterface<Family> {
 protected:
  DeviceFamily() {
    nlohmann::json keys = nlohmann::json::parse(GetParam().changes);
    keys["pad_token_id"] = testing::kTinyEndOfText;  // some families' lies outside this vocabulary
    testing::write_tiny_checkpoint(
        folder_ / "model",
        {.attention_bias = std::string(GetParam().name) == "qwen2", .config_changes = keys.dump()});
  }
  Decoder load(DeviceChoice device, ComputeDtype dtype, bool in_4bit = true) const {
    NullLog log;
    Decoder d = Decoder::load({.model_path = (folder_ / "model").string(),
                               .compute_dtype = dtype,
                               .device = device,
                               .load_in_4bit = in_4bit,
                               .cache_dir = ""},
                              {}, log);
    lora::LoraOptions options;
    options.r = 4;
    options.lora_dropout = 0.1;
    options.target_modules = {"all-linear"};
    options.adapter_dtype = lora::AdapterDtype::kFloat32;
    d.add_adapters(options, 7);
    const at::NoGradGuard no_graph;  // B that is not zero, so that A has a gradient
    at::manual_seed(4);
    for (auto& named : d.adapters()) {
      named.adapter.b.copy_((at::randn(named.adapter.b.sizes()) * 0.05).to(d.device()));
    }
    return d;
  }

  testing::TemporaryFolder folder_;
};

TokenBatch batch() {
  TokenBatch b;
  for (int32_t t = 0; t < 45; ++t) {
    b.tokens.push_back((t * 37 + t * t) % 250);
    b.targets.push_back(t % 3 == 0 ? kIgnoreTarget : (t * 29 + 5) % 250);
  }
  b.segment_starts = {0, 20, 21, 45};
  return b;
}

/// Loss, then the gradients of all adapters, undefined ones as they are.
std::vector<Tensor> step(const Decoder& d, bool checkpointing) {
  const Tensor loss = d.loss_sum(batch(), {.training = true,
                                           .gradient_checkpointing = checkpointing,
                                           .neftune_noise_alpha = 2,
                                           .seed = 3,
                                           .draw = 1});
  loss.backward();
  std::vector<Tensor> results = {loss};
  for (const Tensor& parameter : d.trainable_parameters()) results.push_back(parameter.grad());
  return results;
}

TEST_P(DeviceFamily, TrainsAsOnTheCpu) {
  for (const auto& [dtype, bound] :
       {std::pair{ComputeDtype::kFloat32, 2e-5}, std::pair{ComputeDtype::kBFloat16, 0.1}}) {
    // Where a router is close to a tie, half numbers choose other experts.
    if (dtype != ComputeDtype::kFloat32 && std::string(GetParam().name) == "mixtral") continue;
    const auto here = step(load(DeviceChoice::kCpu, dtype), false);
    for (const bool checkpointing : {false, true}) {
      const auto there = step(load(DeviceChoice::kCuda, dtype), checkpointing);
      ASSERT_EQ(there.size(), here.size());
      for (size_t i = 0; i < here.size(); ++i) {
        ASSERT_EQ(there[i].defined(), here[i].defined()) << i;
        if (!here[i].defined()) continue;
        EXPECT_EQ(there[i].device(), kDevice);
        EXPECT_LE(relative_error(there[i], here[i]), bound)
            << i << (checkpointing ? ", checkpointing" : "");
      }
    }
  }
}

// The emulation moves approximate instructions to a random side, so that no two passes agree to the
// last bit.
TEST_P(DeviceFamily, OffloadedActivationsChangeNothing) {
  Decoder d = load(DeviceChoice::kCuda, ComputeDtype::kFloat32);
  const auto run = [&](bool offloading) {
    for (const Tensor& parameter : d.trainable_parameters()) parameter.mutable_grad().reset();
    const Tensor loss = d.loss_sum(batch(), {.training = true,
                                             .gradient_checkpointing = true,
                                             .activation_offloading = offloading,
                                             .seed = 3,
                                             .draw = 1});
    loss.backward();
    std::vector<Tensor> results = {loss.detach().cpu()};
    for (const Tensor& parameter : d.trainable_parameters()) {
      results.push_back(parameter.grad().defined() ? parameter.grad().cpu() : Tensor());
    }
    return results;
  };
  const auto stays = run(false);
  for (uint64_t seed = 1; seed <= 3; ++seed) {
    testing::set_order(seed);
    const auto leaves = run(true);
    ASSERT_EQ(leaves.size(), stays.size());
    for (size_t i = 0; i < stays.size(); ++i) {
      ASSERT_EQ(leaves[i].defined(), stays[i].defined());
      if (stays[i].defined()) {
        EXPECT_LE(relative_error(leaves[i], stays[i]), 1e-5) << i;
      }
    }
  }
  const int64_t inputs = d.config().num_hidden_layers * 64 * 64 * 4;  // [64, 64] f32 a block
  const int64_t pinned = pinned_activation_bytes();
  EXPECT_GE(pinned, inputs);
  run(true);
  EXPECT_EQ(pinned_activation_bytes(), pinned);  // used again
}

TEST_F(DeviceModel, OffloadedActivationsAreGivenOnce) {
  const Tensor h = at::randn({3, 8}).to(kDevice);
  ActivationOffload offload(kDevice);
  EXPECT_EQ(offload.put(h), 0u);
  EXPECT_EQ(offload.put(h * 2), 1u);
  EXPECT_ERROR(ShapeError, offload.put(h.cpu()), "on cpu is offloaded");
  EXPECT_ERROR(ShapeError, offload.put(h.t()), "allowed a contiguous one");
  expect_same(offload.get(1), h * 2);
  expect_same(offload.get(0), h);
  EXPECT_ERROR(ValueError, offload.get(0), "activation 0 of 2 is asked for again");
  EXPECT_ERROR(DeviceError, ActivationOffload{torch::kCPU}, "allowed a CUDA device");
}

TEST_P(DeviceFamily, MeasuresAndGeneratesAsOnTheCpu) {
  const Decoder here = load(DeviceChoice::kCpu, ComputeDtype::kFloat32),
                there = load(DeviceChoice::kCuda, ComputeDtype::kFloat32);
  EXPECT_EQ(there.device(), kDevice);
  EXPECT_EQ(there.base_bytes(), here.base_bytes());
  EXPECT_LE(relative_error(there.target_nll(batch()), here.target_nll(batch())), 2e-5);
  EXPECT_LE(relative_error(there.logits(batch()), here.logits(batch())), 2e-5);
  KvCache cache_here = here.new_cache(16), cache_there = there.new_cache(16);
  for (const std::vector<int32_t>& tokens :
       {std::vector<int32_t>{5, 6, 7, 8, 9, 10, 11, 12, 13}, {14}, {15, 16}}) {
    EXPECT_LE(relative_error(there.next_logits(tokens, cache_there),
                             here.next_logits(tokens, cache_here)),
              2e-5);
  }
}

INSTANTIATE_TEST_SUITE_P(, DeviceFamily, ::testing::ValuesIn(kFamilies),
                         [](const auto& info) { return std::string(info.param.name); });

TEST_F(DeviceModel, GridsAreRefusedByName) {
  const testing::TemporaryFolder folder;
  testing::write_tiny_checkpoint(folder / "model");
  NullLog log;
  Decoder d = Decoder::load(
      {.model_path = (folder / "model").string(), .device = DeviceChoice::kCuda}, {}, log);
  EXPECT_EQ(d.compute_dtype(), torch::kBFloat16);
  EXPECT_ERROR(ConfigError,
               d.set_grids({{"model.layers.0.self_attn.q_proj", {.weight = lora::Fp8Grid{}}}}),
               "the model is on cuda:0");
}

}  // namespace
}  // namespace qlora::model
