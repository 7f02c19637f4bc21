#pragma once

#include <cstdint>
#include <functional>
#include <ostream>
#include <string>
#include <vector>

namespace qlora::testing {

/// A kernel call that is repeated on arrays of its own.
struct PreparedCall {
  std::function<void()> run;
  int64_t bytes;  // that have to be read and written at least
};

/// One line of the table: a kernel over so many elements.
struct KernelBenchmark {
  std::string name;
  std::function<PreparedCall(int64_t elements)> prepare;
};

/// All of them, in the order of the table.
std::vector<KernelBenchmark> kernel_benchmarks();

/// Of these the ones of generation, the decoder and the optimizer's step.
std::vector<KernelBenchmark> model_benchmarks();

/// Prints the table: milliseconds, GB/s, and the part of the device's peak where that is known.
///   elements  of every call
void run_benchmarks(int64_t elements, std::ostream& out);

/// Bytes of a call under emulation, for scripts/kernel_sheet.py: name, elements, bytes at least,
/// bytes read, bytes written; divided by tabs.
void count_bytes(std::ostream& out);

}  // namespace qlora::testing
