// Training on a device: the optimizer, whole runs, checkpoints.
#include <ATen/ops/full.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "core/error.h"
#include "tests/device/compare.h"
#include "tests/support/errors.h"
#include "tests/trainer/tiny_run.h"
#include "trainer/checkpoint.h"
#include "trainer/device_adamw.h"
#include "trainer/gradient_norm.h"
#include "trainer/optimizer.h"

namespace qlora::trainer {
namespace {

using testing::EventLog;
using testing::expect_same;
using testing::kDevice;
using testing::TinyRun;
using torch::Tensor;

constexpr OptimizerKind kKinds[] = {OptimizerKind::kPagedAdamW8bit, OptimizerKind::kAdamW8bit,
                                    OptimizerKind::kAdamW32bit};

class DeviceTrain : public testing::DeviceTest {};

/// Two parameters, one with 8-bit states, one that is too small, one without a gradient.
std::vector<Parameter> parameters(torch::Device device) {
  at::manual_seed(6);
  std::vector<Parameter> all;
  for (const auto& [name, count] : {std::pair{"large", 5000}, {"small", 30}, {"idle", 4096}}) {
    all.push_back({name, at::randn({count}).to(device).requires_grad_(true)});
  }
  return all;
}

void set_gradients(const Optimizer& optimizer, double factor) {
  for (const Parameter& p : optimizer.parameters()) {
    if (p.name == "idle") continue;
    p.value.mutable_grad() = (at::randn(p.value.sizes()) * factor).to(p.value.device());
  }
}

TEST_F(DeviceTrain, UpdatesAreThoseOfTheCpu) {
  for (const OptimizerKind kind : kKinds) {
    OptimizerOptions options{.kind = kind, .weight_decay = 0.1};
    const auto here = make_optimizer(parameters(torch::kCPU), options);
    const auto there = make_optimizer(parameters(kDevice), options);
    ASSERT_NE(dynamic_cast<DeviceAdamW*>(there.get()), nullptr);
    LossScaler scaler({.kind = LossScalingKind::kDynamic, .initial_scale = 8}, torch::kFloat16);
    LossScaler scaler_there = scaler;
    const Tensor loss = at::full({}, 2.5f);
    for (int t = 1; t <= 3; ++t) {
      // Every second step is clipped.
      const double max_norm = t % 2 == 0 ? 0.5 : 0;
      at::manual_seed(20 + t);
      set_gradients(*here, scaler.factor());
      at::manual_seed(20 + t);
      set_gradients(*there, scaler.factor());
      const StepStats mine = here->update(scaler, max_norm, loss, {.learning_rate = 1e-2});
      const StepStats its =
          there->update(scaler_there, max_norm, loss.to(kDevice), {.learning_rate = 1e-2});
      EXPECT_TRUE(its.applied);
      EXPECT_EQ(its.loss, 2.5);
      EXPECT_EQ(its.gradient_norm, mine.gradient_norm);
      EXPECT_EQ(there->updates(), t);
      for (size_t i = 0; i < 3; ++i) {
        expect_same(there->parameters()[i].value, here->parameters()[i].value);
      }
      const auto states = here->state_tensors(), its_states = there->state_tensors();
      ASSERT_EQ(states.size(), its_states.size());
      for (size_t i = 0; i < states.size(); ++i) {
        EXPECT_EQ(its_states[i].name, states[i].name);
        SCOPED_TRACE(states[i].name);
        expect_same(its_states[i].value, states[i].value);
      }
      here->zero_grad();
      there->zero_grad();
    }
  }
}

TEST_F(DeviceTrain, AStepThatIsNotFiniteChangesNothing) {
  const auto optimizer = make_optimizer(parameters(kDevice), {});
  LossScaler scaler({.kind = LossScalingKind::kDynamic, .initial_scale = 8}, torch::kFloat16);
  const Tensor before = optimizer->parameters()[0].value.detach().cpu().clone();
  set_gradients(*optimizer, 1);
  const auto bad = std::numeric_limits<float>::quiet_NaN();
  StepStats stats = optimizer->update(scaler, 1, at::full({}, bad).to(kDevice), {});
  EXPECT_FALSE(stats.applied);
  EXPECT_TRUE(std::isnan(stats.loss));
  EXPECT_EQ(scaler.factor(), 4);
  optimizer->parameters()[1].value.mutable_grad()[3] = bad;
  stats = optimizer->update(scaler, 1, at::full({}, 1.0f).to(kDevice), {});
  EXPECT_FALSE(stats.applied);
  EXPECT_FALSE(stats.is_finite());
  EXPECT_EQ(scaler.factor(), 2);
  EXPECT_EQ(optimizer->updates(), 0);
  expect_same(optimizer->parameters()[0].value, before);
}

TEST_F(DeviceTrain, ParametersOnTwoDevicesAreRefusedByName) {
  auto mixed = parameters(kDevice);
  mixed[1].value = mixed[1].value.detach().cpu().requires_grad_(true);
  EXPECT_ERROR(DeviceError, make_optimizer(mixed, {}), "small lies on cpu");
  const auto optimizer = make_optimizer(parameters(kDevice), {});
  LossScaler scaler({}, torch::kFloat32);
  EXPECT_ERROR(DeviceError, optimizer->update(scaler, 1, at::full({}, 1.0f), {}),
               "the loss is Float on cpu");
  set_gradients(*optimizer, 1);
  EXPECT_ERROR(DeviceError,
               clip_gradient_norm({optimizer->parameters()[0].value}, 1, at::full({}, 1.0f)),
               "a gradient lies on cuda:0");
}

/// The tiny run on the device.
class DeviceRun : public TinyRun {
 public:
  model::Decoder make_device_model() const {
    NullLog log;
    model::Decoder model = model::Decoder::load({.model_path = (folder / "model").string(),
                                                 .compute_dtype = dtype,
                                                 .device = model::DeviceChoice::kCuda,
                                                 .cache_dir = ""},
                                                {}, log);
    model.add_adapters(facts.lora, options.seed);
    return model;
  }
  TrainResult run_there(RunLog& log) const {
    model::Decoder model = make_device_model();
    return train(model, train_set, &eval_set, options, facts, log);
  }
  model::ComputeDtype dtype = model::ComputeDtype::kFloat32;
};

TEST_F(DeviceTrain, ARunLearnsAsOnTheCpu) {
  DeviceRun tiny;
  tiny.options.max_steps = 4;
  tiny.options.evaluate.strategy = Strategy::kSteps;
  tiny.options.evaluate.steps = 4;
  EventLog here, there;
  EXPECT_FALSE(tiny.run(here, true).peak_device_bytes.has_value());
  tiny.use_run_dir("there");
  const auto peak = tiny.run_there(there).peak_device_bytes;
  ASSERT_TRUE(peak.has_value());
  EXPECT_EQ(*peak > 0, testing::open_torch_device() == nullptr);  // the emulation's runtime has no
                                                                  // allocator of libtorch's
  const auto losses = here.losses(), its = there.losses();
  ASSERT_EQ(losses.size(), 4u);
  ASSERT_EQ(its.size(), 4u);
  for (const auto& [step, loss] : losses) EXPECT_NEAR(its.at(step), loss, 2e-4) << step;
  EXPECT_NEAR(there.of("evaluation").back().at("loss"), here.of("evaluation").back().at("loss"),
              2e-4);
}

TEST_F(DeviceTrain, Fp16TrainsWithALossScale) {
  DeviceRun tiny;
  tiny.dtype = model::ComputeDtype::kFloat16;
  tiny.options.max_steps = 4;
  tiny.options.loss_scaling.initial_scale = 1048576;  // too large at first: it falls
  EventLog log;
  const TrainResult result = tiny.run_there(log);
  EXPECT_EQ(result.steps, 4);
  const auto steps = log.of("step");
  EXPECT_EQ(steps.front().at("loss_scale"), 1048576);
  EXPECT_LT(result.skipped_steps, 4);
  EXPECT_TRUE(std::isfinite(result.last_loss));
}

TEST_F(DeviceTrain, AResumedRunGoesOnAsIfItHadNeverStopped) {
  DeviceRun tiny;
  tiny.options.max_steps = 4;
  tiny.options.save.strategy = Strategy::kSteps;
  tiny.options.save.steps = 2;
  EventLog whole, second;
  tiny.run_there(whole);
  std::filesystem::remove_all(tiny.run_dir() / "checkpoint-4");
  tiny.options.resume = (tiny.run_dir() / "checkpoint-2").string();
  tiny.use_run_dir("resumed");
  tiny.run_there(second);
  const auto losses = whole.losses(), its = second.losses();
  ASSERT_EQ(its.size(), 2u);
  // The emulation moves approximate instructions to a random side.
  EXPECT_NEAR(its.at(3), losses.at(3), 1e-5);
  EXPECT_NEAR(its.at(4), losses.at(4), 1e-5);
}

}  // namespace
}  // namespace qlora::trainer
