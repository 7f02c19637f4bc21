#pragma once

#include <string>

namespace qlora {

double wall_seconds();         // since some fixed moment; never goes back
double process_cpu_seconds();  // user and system time of all threads so far
std::string utc_timestamp();   // now, e.g. 2026-01-31T23:59:59.123Z

/// Wall time since its construction.
class Stopwatch {
 public:
  double seconds() const { return wall_seconds() - start_; }

 private:
  double start_ = wall_seconds();
};

}  // namespace qlora
