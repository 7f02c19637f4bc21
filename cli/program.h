#pragma once

namespace qlora::cli {

inline constexpr int kExitBug = 1;      // an exception that is no qlora::Error
inline constexpr int kExitRefused = 2;  // a user's error: one line on stderr says what to do

/// The whole program: parses, calls one subcommand, turns errors into one line and an exit code.
///   returns   0, kExitBug, kExitRefused, or 129 / 130 / 143 after an orderly stop by a signal
int run(int argc, const char* const* argv);

}  // namespace qlora::cli
