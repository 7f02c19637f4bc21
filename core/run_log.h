#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace qlora {

/// The one way by which libraries speak to the user. Implementations are in core/log_sinks.h.
class RunLog {
 public:
  virtual ~RunLog() = default;
  virtual void notice(const std::string& text) = 0;  // one line for the reader
  virtual void warn(const std::string& text) = 0;    // one line that the reader should act on
  /// Replaces the live line of a terminal; elsewhere shown at most every few seconds.
  virtual void live(const std::string& text) = 0;
  /// One machine-readable record: a line of log.jsonl with `kind` and the fields.
  virtual void event(const std::string& kind, const nlohmann::json& record) = 0;
};

/// For callers that want silence.
class NullLog final : public RunLog {
 public:
  void notice(const std::string&) override {}
  void warn(const std::string&) override {}
  void live(const std::string&) override {}
  void event(const std::string&, const nlohmann::json&) override {}
};

}  // namespace qlora
