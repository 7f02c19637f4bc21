#pragma once

#include <cstdio>
#include <filesystem>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "core/run_log.h"

namespace qlora {

enum class Verbosity { kNormal, kQuiet };  // quiet: warnings only

struct TerminalLogOptions {
  Verbosity verbosity = Verbosity::kNormal;
  double plain_interval_seconds = 10;    // between two live lines where there is no terminal
  std::optional<bool> is_terminal = {};  // unset: asks the system
  int columns = 0;                       // of the terminal; 0: asks the system, 80 if unknown
};

/// For people: one live line on a terminal, plain lines elsewhere. Events are not shown.
/// Control characters in texts are shown as '?', so that no file can steer the terminal. A stream
/// that takes nothing any more is no error: the run goes on without its reader.
class TerminalLog final : public RunLog {
 public:
  explicit TerminalLog(std::FILE* out, const TerminalLogOptions& options = {});
  ~TerminalLog() override;  // ends the live line
  void notice(const std::string& text) override;
  void warn(const std::string& text) override;  // "warning: ..."
  void live(const std::string& text) override;
  void event(const std::string&, const nlohmann::json&) override {}

 private:
  void print(const std::string& text);
  void draw();

  std::mutex mutex_;
  std::FILE* out_;
  TerminalLogOptions options_;
  bool is_terminal_;
  std::string live_;            // what the live line shows; empty: there is none
  double last_plain_ = -1e300;  // wall_seconds() of the last live line that was printed plainly
};

/// For programs: log.jsonl, one object a line with "time" (UTC) and "kind". Notices and warnings
/// are kinds of their own with "text". Appends; a line that a crash has cut is closed first.
class JsonlLog final : public RunLog {
 public:
  explicit JsonlLog(const std::filesystem::path& path);  // throws IoError
  ~JsonlLog() override;
  JsonlLog(const JsonlLog&) = delete;
  JsonlLog& operator=(const JsonlLog&) = delete;
  void notice(const std::string& text) override;
  void warn(const std::string& text) override;
  void live(const std::string&) override {}
  /// record is an object. Numbers that are not finite become null. Throws IoError where the line
  /// cannot be written.
  void event(const std::string& kind, const nlohmann::json& record) override;

 private:
  std::mutex mutex_;
  std::filesystem::path path_;
  int file_;
  bool cut_line_ = false;  // the file does not end with a line end
};

/// Hands everything to several logs, which outlive it.
class TeeLog final : public RunLog {
 public:
  explicit TeeLog(std::vector<RunLog*> logs) : logs_(std::move(logs)) {}
  void notice(const std::string& text) override {
    for (RunLog* log : logs_) log->notice(text);
  }
  void warn(const std::string& text) override {
    for (RunLog* log : logs_) log->warn(text);
  }
  void live(const std::string& text) override {
    for (RunLog* log : logs_) log->live(text);
  }
  void event(const std::string& kind, const nlohmann::json& record) override {
    for (RunLog* log : logs_) log->event(kind, record);
  }

 private:
  std::vector<RunLog*> logs_;
};

}  // namespace qlora
