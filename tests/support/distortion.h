#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace qlora::testing {

/// What rounding did to a set of numbers (after gemma.cpp's DistortionStats).
class DistortionStats {
 public:
  void add(double original, double restored) {
    const double error = std::abs(original - restored);
    ++count_;
    exact_ += error == 0 ? 1 : 0;
    sign_flips_ += original * restored < 0 ? 1 : 0;
    rounded_to_zero_ += original != 0 && restored == 0 ? 1 : 0;
    max_error_ = std::max(max_error_, error);
    error_energy_ += error * error;
    energy_ += original * original;
  }

  int64_t count() const { return count_; }
  int64_t exact() const { return exact_; }
  int64_t sign_flips() const { return sign_flips_; }
  int64_t rounded_to_zero() const { return rounded_to_zero_; }
  double max_error() const { return max_error_; }
  double signal_to_noise_db() const { return 10 * std::log10(energy_ / error_energy_); }

 private:
  int64_t count_ = 0;
  int64_t exact_ = 0;
  int64_t sign_flips_ = 0;
  int64_t rounded_to_zero_ = 0;
  double max_error_ = 0;
  double error_energy_ = 0;
  double energy_ = 0;
};

}  // namespace qlora::testing
