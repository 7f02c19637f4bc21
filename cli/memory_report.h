#pragma once

#include <exception>
#include <string>

#include "cli/plan.h"
#include "core/out_of_memory.h"
#include "core/run_log.h"

namespace qlora::cli {

/// Passes everything on, and notes how far the run has come: what is being allocated when memory
/// runs out.
class StageLog final : public RunLog {
 public:
  explicit StageLog(RunLog& log) : log_(log) {}
  void notice(const std::string& text) override { log_.notice(text); }
  void warn(const std::string& text) override { log_.warn(text); }
  void live(const std::string& text) override { log_.live(text); }
  void event(const std::string& kind, const nlohmann::json& record) override;

  void enter(std::string stage) { stage_ = std::move(stage); }
  const std::string& stage() const { return stage_; }

 private:
  RunLog& log_;
  std::string stage_ = "the frozen base";
};

/// One line for memory that ran out: what was being allocated, what was asked for, what is there.
std::string out_of_memory_text(const OutOfMemory& problem, const std::string& stage);

/// The same with the plan of the run and the three settings that help most, in their order.
std::string out_of_memory_text(const OutOfMemory& problem, const std::string& stage,
                               const Plan& plan);

}  // namespace qlora::cli
