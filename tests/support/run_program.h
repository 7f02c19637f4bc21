#pragma once

#include <sys/types.h>

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

namespace qlora::testing {

struct ProgramResult {
  int exit_code = -1;  // 128 + signal where a signal killed it
  std::string out;
  std::string err;
};

struct ProgramInput {
  std::string standard_input;
  std::filesystem::path working_directory;  // empty: that of the test
  std::vector<std::string> environment;     // NAME=value, added to the test's own
  double timeout_seconds = 120;             // then the program is killed
  /// Called about every 5 ms while the program runs, e.g. to send it a signal.
  std::function<void(pid_t)> while_running;
};

/// Runs a program and waits for it. Throws std::runtime_error where it cannot be started.
ProgramResult run_program(const std::filesystem::path& program,
                          const std::vector<std::string>& arguments,
                          const ProgramInput& input = {});

}  // namespace qlora::testing
