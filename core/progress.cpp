#include "core/progress.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace qlora {
namespace {

constexpr size_t kRecentSteps = 32;

}  // namespace

std::string duration_text(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0) return "?";
  if (seconds < 9.95) return fmt::format("{:.1f}s", seconds);
  if (seconds > 1e12) return "forever";
  const auto whole = static_cast<int64_t>(std::llround(seconds));
  const int64_t minutes = whole / 60, hours = minutes / 60, days = hours / 24;
  if (minutes == 0) return fmt::format("{}s", whole);
  if (hours == 0) return fmt::format("{}m{:02}s", minutes, whole % 60);
  if (days == 0) return fmt::format("{}h{:02}m", hours, minutes % 60);
  return fmt::format("{}d{:02}h", days, hours % 24);
}

std::string bytes_text(uint64_t bytes) {
  const auto value = static_cast<double>(bytes);
  if (value < 999.5) return fmt::format("{} B", bytes);
  if (value < 999.5e3) return fmt::format("{:.0f} kB", value / 1e3);
  if (value < 999.5e6) return fmt::format("{:.0f} MB", value / 1e6);
  if (value < 99.95e9) return fmt::format("{:.1f} GB", value / 1e9);
  return fmt::format("{:.0f} GB", value / 1e9);
}

std::string rate_text(double per_second) {
  if (per_second < 0.995) return fmt::format("{:.2f}", per_second);
  if (per_second < 9.95) return fmt::format("{:.1f}", per_second);
  if (per_second < 9999.5) return fmt::format("{:.0f}", per_second);
  return fmt::format("{:.1f}k", per_second / 1e3);
}

void ProgressMeter::add_step(double seconds, int64_t tokens) {
  ++step_;
  recent_.push_back({seconds, tokens});
  if (recent_.size() > kRecentSteps) recent_.pop_front();
}

double ProgressMeter::tokens_per_second() const {
  double seconds = 0, tokens = 0;
  for (const Step& step : recent_) {
    seconds += step.seconds;
    tokens += static_cast<double>(step.tokens);
  }
  return seconds > 0 ? tokens / seconds : 0;
}

std::optional<double> ProgressMeter::seconds_left() const {
  if (recent_.empty()) return std::nullopt;
  std::vector<double> seconds;
  for (const Step& step : recent_) seconds.push_back(step.seconds);
  std::sort(seconds.begin(), seconds.end());
  const size_t half = seconds.size() / 2;
  const double median =
      seconds.size() % 2 ? seconds[half] : (seconds[half - 1] + seconds[half]) / 2;
  return median * static_cast<double>(std::max<int64_t>(total_steps_ - step_, 0));
}

std::string ProgressMeter::line(double loss, uint64_t memory_bytes) const {
  std::string text = fmt::format("step {}/{} · loss {:.3g}", step_, total_steps_, loss);
  if (tokens_per_second() > 0) text += fmt::format(" · {} tok/s", rate_text(tokens_per_second()));
  if (memory_bytes > 0) text += " · " + bytes_text(memory_bytes);
  if (const auto left = seconds_left()) text += " · " + duration_text(*left) + " left";
  return text;
}

}  // namespace qlora
