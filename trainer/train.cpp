#include "trainer/train.h"

#include <ATen/ops/zeros.h>
#include <torch/types.h>

#include <cmath>

#include "core/error.h"
#include "core/signals.h"
#include "data/batches.h"
#include "trainer/checkpoint.h"
#include "trainer/optimizer.h"
#include "trainer/session.h"

namespace qlora::trainer {

int64_t total_steps(const TrainOptions& options, int64_t steps_per_epoch) {
  if (options.max_steps > 0) return options.max_steps;
  const double steps = std::ceil(options.num_train_epochs * static_cast<double>(steps_per_epoch));
  QLORA_CHECK(steps >= 0 && steps <= kMaxSteps, ConfigError,
              "[trainer] num_train_epochs is {} and an epoch has {} steps, which makes {:g} steps, "
              "allowed: up to {:g}; lower num_train_epochs or set max_steps",
              options.num_train_epochs, steps_per_epoch, steps, kMaxSteps);
  return static_cast<int64_t>(steps);
}

TrainResult train(model::Decoder& model, const data::ExampleSet& train_set,
                  const data::ExampleSet* eval_set, const TrainOptions& options,
                  const RunFacts& facts, RunLog& log) {
  const auto parameters = model.trainable_parameters();  // A and B of every LoraLinear, FP32
  const auto optimizer = make_optimizer(adapter_parameters(model), options.optimizer);
  LossScaler scaler(options.loss_scaling, model.compute_dtype());
  data::Batches batches(train_set, options.batching, options.seed);
  Watchdog watchdog(options.watchdog);
  Session session({model, *optimizer, scaler, batches, watchdog}, train_set, eval_set, options,
                  facts, log);
  Progress& progress = session.resume_or_start();

  while (progress.step < session.total_steps() && !stop_requested()) {
    const StepClock clock;
    const data::StepBatch step = batches.next();  // all micro-batches of one optimizer step
    StepStats stats{.learning_rate = session.learning_rate(),
                    .loss_scale = scaler.factor(),
                    .tokens = step.tokens(),
                    .target_tokens = step.target_tokens()};
    torch::Tensor loss_sum = at::zeros({}, parameters.front().options().requires_grad(false));

    for (const TokenBatch& micro : step.micro_batches) {
      const auto loss = model.loss_sum(micro, session.forward_context()) / stats.target_tokens;
      scaler.scale(loss).backward();  // accumulates into the adapters; exact token mean
      loss_sum += loss.detach();      // stays on the device: no synchronisation here
      ++progress.micro_batches;
    }

    // Unscale, measure and clip the gradients, update; not finite: lower the scale, skip this step.
    stats = optimizer->update(scaler, options.max_gradient_norm, loss_sum, stats);
    optimizer->zero_grad();
    ++progress.step;

    session.record(stats, clock);
    session.watch(stats);  // too many skipped steps or a loss spike: stop or roll back
    if (session.evaluation_is_due()) session.evaluate();
    if (session.save_is_due()) session.save();
  }
  return session.finish();
}

}  // namespace qlora::trainer
