#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "tests/support/run_program.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_checkpoint.h"

namespace qlora::testing {

inline std::string program_path() {
  return std::string(QLORA_BINARY_DIR) + "/bin/qlora";
}

/// Runs the built program with one thread: the tests share the machine.
inline ProgramResult qlora(const std::vector<std::string>& arguments, ProgramInput input = {}) {
  input.environment.push_back("OMP_NUM_THREADS=1");
  return run_program(program_path(), arguments, input);
}

/// Exit code 2, nothing on stdout, and on stderr one line "error: …" that holds all the words;
/// notices may stand before it.
inline void expect_refused(const ProgramResult& result, const std::vector<std::string>& words) {
  EXPECT_EQ(result.exit_code, 2) << result.err;
  EXPECT_EQ(result.out, "");
  ASSERT_FALSE(result.err.empty());
  EXPECT_EQ(result.err.back(), '\n');
  const size_t begin = result.err.rfind("error: ");
  ASSERT_NE(begin, std::string::npos) << result.err;
  EXPECT_TRUE(begin == 0 || result.err[begin - 1] == '\n') << result.err;
  const std::string line = result.err.substr(begin);
  EXPECT_EQ(std::count(line.begin(), line.end(), '\n'), 1) << "more than one line: " << line;
  for (const std::string& word : words) {
    EXPECT_NE(line.find(word), std::string::npos) << "\"" << word << "\" is not in: " << line;
  }
}

}  // namespace qlora::testing
