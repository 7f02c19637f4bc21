#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <string>

namespace qlora {

std::string duration_text(double seconds);  // 0.4s, 12s, 3m12s, 2h05m, 3d04h
std::string bytes_text(uint64_t bytes);     // 812 MB, 1.3 GB: powers of 1000
std::string rate_text(double per_second);   // 0.42, 7.3, 231, 12.4k

/// Speed and time left, from measured steps only: there is no guess before the first one.
class ProgressMeter {
 public:
  /// done_steps counts what an earlier run has done; its time is not known here.
  explicit ProgressMeter(int64_t total_steps, int64_t done_steps = 0)
      : total_steps_(total_steps), step_(done_steps) {}

  /// One more step is done. What lies between steps (evaluation, saving) is not to be counted.
  void add_step(double seconds, int64_t tokens);

  int64_t step() const { return step_; }
  int64_t total_steps() const { return total_steps_; }

  /// Of the last steps together; 0 before the first.
  double tokens_per_second() const;
  /// Median of the last steps, which a pause of the machine does not move, times the steps left.
  std::optional<double> seconds_left() const;

  /// "step 12/60 · loss 2.13 · 231 tok/s · 812 MB · 3m12s left"
  std::string line(double loss, uint64_t memory_bytes) const;

 private:
  struct Step {
    double seconds;
    int64_t tokens;
  };
  int64_t total_steps_;
  int64_t step_;
  std::deque<Step> recent_;
};

}  // namespace qlora
