#include "trainer/optimizer.h"

#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/parallel.h"
#include "io/safetensors.h"
#include "trainer/paged_adamw8bit.h"

namespace qlora::trainer {
namespace {

std::vector<Parameter> parameters_of(const std::vector<int64_t>& counts) {
  std::vector<Parameter> parameters;
  for (const int64_t count : counts) {
    parameters.push_back({"p" + std::to_string(count), at::full({count}, 0.5f)});
  }
  return parameters;
}

TEST(Optimizer, SmallTensorsKeep32BitStates) {
  const PagedAdamW8bit optimizer(parameters_of({4095, 4096, 5000}), {});
  std::map<std::string, torch::Tensor> states;
  for (const NamedTensor& tensor : optimizer.state_tensors()) states[tensor.name] = tensor.value;
  EXPECT_EQ(states.size(), 2u + 4u + 4u);
  EXPECT_EQ(states.at("mean.p4095").scalar_type(), torch::kFloat32);
  EXPECT_EQ(states.at("square.p4096").scalar_type(), torch::kUInt8);
  EXPECT_EQ(states.at("mean_absmax.p4096").numel(), 16);
  EXPECT_EQ(states.at("square_absmax.p5000").numel(), 20);
  EXPECT_EQ(optimizer.state_bytes(), 4095 * 8 + 2 * (4096 + 5000) + 4 * 2 * (16 + 20));
}

TEST(Optimizer, KindsStepAlikeWithinTheirStates) {
  // After the first step m and v are exact in all kinds: the states are rounded behind the update.
  for (const OptimizerKind kind :
       {OptimizerKind::kPagedAdamW8bit, OptimizerKind::kAdamW8bit, OptimizerKind::kAdamW32bit}) {
    const auto parameters = parameters_of({10, 5000});
    const auto optimizer = make_optimizer(parameters, {.kind = kind, .weight_decay = 0.1});
    for (const Parameter& p : parameters)
      p.value.mutable_grad() = at::full({p.value.numel()}, -3.f);
    optimizer->step(1e-2);
    EXPECT_EQ(optimizer->updates(), 1);
    for (const Parameter& p : parameters) {
      // Decay, then + rate: m/sqrt(v) of a first step is the gradient's sign.
      EXPECT_NEAR(p.value[0].item<double>(), 0.5 * (1 - 1e-3) + 1e-2, 1e-7);
    }
  }
}

TEST(Optimizer, ParametersWithoutGradientStay) {
  const auto parameters = parameters_of({10, 5000, 6000});
  const auto optimizer = make_optimizer(parameters, {.weight_decay = 0.5});
  parameters[2].value.mutable_grad() = at::full({6000}, 1.0f);
  optimizer->step(1e-2);
  EXPECT_EQ(parameters[0].value[0].item<float>(), 0.5f);
  EXPECT_EQ(parameters[1].value[0].item<float>(), 0.5f);
  EXPECT_NE(parameters[2].value[0].item<float>(), 0.5f);
}

TEST(Optimizer, ZeroGradDropsTheBuffers) {
  const auto parameters = parameters_of({10});
  const auto optimizer = make_optimizer(parameters, {});
  parameters[0].value.mutable_grad() = at::full({10}, 1.0f);
  optimizer->zero_grad();
  EXPECT_FALSE(parameters[0].value.grad().defined());
}

TEST(Optimizer, RefusesWhatItCannotUpdate) {
  EXPECT_THROW(make_optimizer({{"half", at::zeros({4}, torch::kFloat16)}}, {}), ShapeError);
  EXPECT_THROW(make_optimizer({{"turned", at::zeros({4, 3}).t()}}, {}), ShapeError);
  EXPECT_THROW(make_optimizer({{"away", at::zeros({4}, at::Device("meta"))}}, {}), DeviceError);
}

// The classes against torch's and bitsandbytes' optimizers. With 8 bits the first step is the same
// for any quantizer; adamw_test.cpp replays the states of six.
TEST(Optimizer, EqualsTheFixtures) {
  const io::SafetensorsReader reader(std::string(QLORA_SOURCE_DIR) +
                                     "/tests/fixtures/bnb/adamw8/reference.safetensors");
  const auto tensor_of = [&](const std::string& name) {
    const io::TensorView& view = reader.at(name);
    torch::Tensor tensor = at::zeros(view.shape);
    io::read_f32(view, 0, view.element_count(), tensor.data_ptr<float>());
    return tensor;
  };
  struct Case {
    const char* name;
    OptimizerKind kind;
    int steps;
    double bound;  // adamw_test.cpp derives it
    std::vector<std::string> tensors;
  };
  for (const Case& c :
       {Case{"torch_wd01",
             OptimizerKind::kAdamW32bit,
             6,
             1e-6,
             {"big_8x600", "odd_41x101", "small_16x16"}},
        Case{"adamw8_wd01", OptimizerKind::kPagedAdamW8bit, 1, 3e-8, {"odd_41x101"}},
        Case{"adamw8_wd01", OptimizerKind::kPagedAdamW8bit, 6, 1e-6, {"small_16x16"}}}) {
    std::vector<Parameter> parameters;
    for (const std::string& name : c.tensors) {
      parameters.push_back({name, tensor_of("param0." + name)});
    }
    const auto optimizer = make_optimizer(parameters, {.kind = c.kind, .weight_decay = 0.1});
    for (int step = 1; step <= c.steps; ++step) {
      for (const Parameter& p : parameters) {
        p.value.mutable_grad() = tensor_of(fmt::format("grad.{}.{}", p.name, step));
      }
      optimizer->step(2e-4);
    }
    for (const Parameter& p : parameters) {
      const auto want = tensor_of(fmt::format("{}.{}.step{}.param", c.name, p.name, c.steps));
      EXPECT_LE((p.value - want).abs().max().item<double>(), c.bound) << c.name << " " << p.name;
    }
  }
}

TEST(Optimizer, StateTensorsAreTheStateItself) {
  const auto one_parameters = parameters_of({5000}), two_parameters = parameters_of({5000});
  const auto one = make_optimizer(one_parameters, {}), two = make_optimizer(two_parameters, {});
  const torch::Tensor gradients = at::randn({4, 5000});
  const auto step = [&](const std::vector<Parameter>& parameters, Optimizer& optimizer, int i) {
    parameters[0].value.mutable_grad() = gradients[i].clone();
    optimizer.step(1e-3);
  };
  for (int i = 0; i < 2; ++i) step(one_parameters, *one, i);
  const auto from = one->state_tensors(), to = two->state_tensors();
  for (size_t i = 0; i < from.size(); ++i) {
    EXPECT_EQ(from[i].name, to[i].name);
    to[i].value.copy_(from[i].value);
  }
  two_parameters[0].value.copy_(one_parameters[0].value);
  two->set_updates(one->updates());
  for (int i = 2; i < 4; ++i) {
    step(one_parameters, *one, i);
    step(two_parameters, *two, i);
  }
  EXPECT_TRUE(at::equal(one_parameters[0].value, two_parameters[0].value));
}

}  // namespace
}  // namespace qlora::trainer
