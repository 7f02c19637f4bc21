#include <CLI/App.hpp>
#include <charconv>
#include <cmath>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cli/command.h"
#include "cli/device_memory.h"
#include "cli/model_arguments.h"
#include "cli/output.h"
#include "cli/plan_table.h"
#include "cli/run_shape.h"
#include "cli/token_input.h"
#include "core/error.h"
#include "core/log_sinks.h"
#include "core/memory.h"
#include "data/batches.h"
#include "exporter/shard_writer.h"

namespace qlora::cli {
namespace {

constexpr const char* kExamples = R"(Examples:
  qlora plan configs/smollm2-quickstart.json             what the run takes, part by part
  qlora plan configs/llama-7b-24gb.json --gpu "RTX 4090"
  qlora plan run.json --device-memory 16GB --set lora.r=8 --json
  qlora plan --inference --model-path models/llama-2-7b --context 4096 --gpu "RTX 3060"
  qlora plan --inference --parameters 70B --bits 4

Nothing is loaded: sizes come from config.json (or a GGUF file's header) alone. Where the data set is
there, its rows are counted; else every row is taken to be data.max_length long.
)";

struct PlanArguments {
  std::string config;
  std::vector<std::string> overrides;
  std::string device_memory;
  std::string gpu;
  bool no_data = false;
  bool json = false;

  bool inference = false;
  std::string model_path;
  std::string parameters;
  int64_t context = 2048;
  int64_t batch = 1;
  int64_t bits = 0;  // 0: all schemes
  int64_t kv_bits = 16;
  std::string prefer = "balanced";
};

std::optional<int64_t> device_bytes_of(const PlanArguments& arguments) {
  QLORA_CHECK(arguments.gpu.empty() || arguments.device_memory.empty(), ConfigError,
              "[usage] --gpu and --device-memory both say how large the device is; give one");
  if (!arguments.gpu.empty()) return gpu_memory_bytes(arguments.gpu);
  if (arguments.device_memory.empty()) return std::nullopt;
  return static_cast<int64_t>(exporter::parse_bytes(arguments.device_memory, "--device-memory"));
}

/// "7B", "1.1B", "135M", "7000000000".
int64_t parse_parameters(const std::string& text) {
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const std::string unit(end, text.data() + text.size());
  const double factor = unit == "B" ? 1e9 : unit == "M" ? 1e6 : unit.empty() ? 1 : 0;
  const double count = number * factor;
  QLORA_CHECK(error == std::errc() && count >= 1 && count < 1e15, ConfigError,
              "[usage] --parameters is {}, allowed: a number with B or M, as in 7B or 135M",
              terminal_safe(text, LineBreaks::kReplace));
  return std::llround(count);
}

model::ServingGoal goal_of(const std::string& name) {
  if (name == "accuracy") return model::ServingGoal::kAccuracy;
  if (name == "memory") return model::ServingGoal::kMemory;
  if (name == "speed") return model::ServingGoal::kSpeed;
  QLORA_CHECK(name == "balanced", ConfigError,
              "[usage] --prefer is {}, allowed: balanced, accuracy, memory, speed",
              terminal_safe(name, LineBreaks::kReplace));
  return model::ServingGoal::kBalanced;
}

int plan_serving(const PlanArguments& arguments) {
  QLORA_CHECK(arguments.config.empty(), ConfigError,
              "[usage] --inference goes with --model-path or --parameters, not with a CONFIG");
  QLORA_CHECK(arguments.model_path.empty() != arguments.parameters.empty(), ConfigError,
              "[usage] --inference needs one of --model-path and --parameters");
  ServingPlan plan;
  plan.shape.context_tokens = arguments.context;
  plan.shape.batch = arguments.batch;
  plan.shape.kv_bits = arguments.kv_bits;
  plan.device_bytes = device_bytes_of(arguments);
  if (arguments.model_path.empty()) {
    plan.model = arguments.parameters + " parameters";
    plan.shape.parameters = parse_parameters(arguments.parameters);
  } else {
    plan.model = arguments.model_path;
    plan.shape.config = describe_model(arguments.model_path).config;
  }
  const model::ServingGoal goal = goal_of(arguments.prefer);
  plan.schemes = model::plan_inference(plan.shape);
  if (plan.device_bytes) {
    plan.recommendation = model::recommend_scheme(plan.schemes, *plan.device_bytes, goal);
  }
  if (arguments.bits != 0) {
    std::erase_if(plan.schemes, [&](const model::SchemeMemory& memory) {
      return model::scheme_bits(memory.scheme) != arguments.bits;
    });
    QLORA_CHECK(!plan.schemes.empty(), ConfigError,
                "[usage] --bits is {}, allowed: 2, 3, 4, 8, 16, 32", arguments.bits);
  }
  arguments.json ? print_json(serving_plan_json(plan)) : print(serving_plan_text(plan));
  return 0;
}

/// The run's data, or nothing where they are not on this machine.
std::optional<data::TrainingData> find_data(const configs::RunConfig& config, bool no_data,
                                            RunLog& log) {
  if (no_data) return std::nullopt;
  try {
    return load_run_data(config, log);
  } catch (const IoError& problem) {
    log.notice(std::string("the plan goes without data: ") + problem.what());
    return std::nullopt;
  }
}

int plan_run(const PlanArguments& arguments) {
  QLORA_CHECK(!arguments.config.empty(), ConfigError,
              "[usage] give a CONFIG to plan a run, or --inference to plan serving");
  TerminalLog log(stderr);
  std::vector<std::string> overrides = arguments.overrides;
  if (!arguments.gpu.empty()) overrides.emplace_back("device=cuda");
  const configs::LoadedConfig loaded = configs::load_run_config(arguments.config, overrides);
  const configs::RunConfig& config = loaded.config;
  for (const std::string& notice : loaded.notices) log.notice(notice);

  RunPlan plan;
  plan.model = config.model_name_or_path;
  plan.shape = shape_of(config, describe_model(config.model_name_or_path));
  plan.device_bytes = device_bytes_of(arguments);
  std::optional<int64_t> steps_per_epoch;
  if (const auto data = find_data(config, arguments.no_data, log)) {
    measure_batches(config, *data, plan.shape);
    plan.has_data = true;
    steps_per_epoch = data::Batches(data->train, config.training.batching, config.training.seed)
                          .steps_per_epoch();
  }
  plan.disk = model::plan_disk(plan.shape, disk_shape_of(config, steps_per_epoch));
  if (!plan.device_bytes && plan.shape.device == model::PlanDevice::kCpu) {
    plan.device_bytes = static_cast<int64_t>(available_memory_bytes());
  }
  arguments.json ? print_json(run_plan_json(plan)) : print(run_plan_text(plan));
  return 0;
}

void add_inference_options(CLI::App& command, PlanArguments& arguments) {
  command.add_flag("--inference", arguments.inference, "plan serving instead of training");
  command
      .add_option("--model-path", arguments.model_path,
                  "with --inference: a folder with config.json, or a GGUF file")
      ->check(not_empty())
      ->type_name("PATH");
  command
      .add_option("--parameters", arguments.parameters,
                  "with --inference: instead of a model; weights alone")
      ->check(not_empty())
      ->type_name("7B");
  command.add_option("--context", arguments.context, "tokens of a sequence (2048)")
      ->check(not_empty());
  command.add_option("--batch", arguments.batch, "sequences at a time (1)")->check(not_empty());
  command.add_option("--bits", arguments.bits, "show this width alone: 2, 3, 4, 8, 16, 32")
      ->check(not_empty());
  command.add_option("--kv-bits", arguments.kv_bits, "of keys and values: 4, 8, 16, 32 (16)")
      ->check(not_empty());
  command
      .add_option("--prefer", arguments.prefer,
                  "what the recommendation is for: balanced, accuracy, memory, speed")
      ->check(not_empty())
      ->type_name("GOAL");
}

}  // namespace

void add_plan(CLI::App& program, Action& action) {
  auto arguments = std::make_shared<PlanArguments>();
  CLI::App& command = *program.add_subcommand(
      "plan", "Tell what memory and disk a run or a served model will take; loads nothing.");
  command.footer(kExamples);
  command.add_option("CONFIG", arguments->config, "the run's configuration")->check(not_empty());
  add_set_option(command, arguments->overrides);
  command
      .add_option("--device-memory", arguments->device_memory,
                  "of the device it is to fit on, as 24GB or 16GiB")
      ->check(not_empty())
      ->type_name("SIZE");
  command.add_option("--gpu", arguments->gpu, "the same by the name of a GPU; means device cuda")
      ->check(not_empty())
      ->type_name("NAME");
  command.add_flag("--no-data", arguments->no_data, "count every row as data.max_length tokens");
  add_inference_options(command, *arguments);
  add_json_option(command, arguments->json);
  command.callback([arguments, &action] {
    action = [arguments] {
      return arguments->inference ? plan_serving(*arguments) : plan_run(*arguments);
    };
  });
}

}  // namespace qlora::cli
