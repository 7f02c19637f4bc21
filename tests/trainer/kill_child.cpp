// Trains a tiny model and saves a checkpoint after every step, for kill_test.cpp to kill.
// Usage: kill_child MODEL OUTPUT_DIR
#include "tests/trainer/tiny_run.h"

int main(int, char** arguments) {
  using namespace qlora;
  set_thread_count(1);
  testing::EventLog log;
  model::Decoder model = testing::load_fp32(arguments[1]);
  trainer::RunFacts facts;
  facts.lora.r = 64;
  model.add_adapters(facts.lora, 1);
  trainer::TrainOptions options;
  options.output_dir = arguments[2];
  options.max_steps = 1'000'000;
  options.save = {.strategy = trainer::Strategy::kSteps, .steps = 1, .total_limit = 2};
  options.resume = "auto";
  trainer::train(model, testing::tiny_examples(8, 1), nullptr, options, facts, log);
  return 0;
}
