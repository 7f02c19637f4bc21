#include "trainer/loss_curve.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "core/text.h"

namespace qlora::trainer {
namespace {

constexpr double kWidth = 860, kHeight = 420;
constexpr double kLeft = 64, kRight = 836, kTop = 64, kBottom = 368;
constexpr size_t kMostPoints = 1200;  // more than the picture is wide adds only bytes

constexpr const char* kStyle = R"(<style>
  svg { --paper: #ffffff; --ink: #1c2024; --soft: #6b7280; --rule: #e3e6ea; --train: #2563c9; --eval: #c2410c; }
  @media (prefers-color-scheme: dark) {
    svg { --paper: #16181c; --ink: #e8eaed; --soft: #9aa1ab; --rule: #2c3036; --train: #7aa7f0; --eval: #f0955c; }
  }
  text { font: 13px system-ui, sans-serif; fill: var(--soft); font-variant-numeric: tabular-nums; }
  .title { font-size: 16px; font-weight: 600; fill: var(--ink); }
  .rule { stroke: var(--rule); stroke-width: 1; }
  .raw, .mean, .eval { fill: none; stroke-linejoin: round; }
  .raw { stroke: var(--train); stroke-width: 1; opacity: .35; }
  .mean { stroke: var(--train); stroke-width: 2.2; }
  .eval { stroke: var(--eval); stroke-width: 2.2; }
  .dot { fill: var(--eval); stroke: var(--paper); stroke-width: 1.5; }
</style>
)";

struct Range {
  double low = std::numeric_limits<double>::infinity();
  double high = -std::numeric_limits<double>::infinity();

  void add(double value) {
    low = std::min(low, value);
    high = std::max(high, value);
  }
};

/// A step of 1, 2 or 5 times a power of ten that cuts the range into at most `most` pieces.
double tick_step(double span, int most) {
  const double rough = span / most;
  const double power = std::pow(10.0, std::floor(std::log10(rough)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= rough) return factor * power;
  }
  return 10 * power;
}

/// first, first + step … up to last; none where the range is not finite.
std::vector<double> ticks(double first, double last, double step) {
  const double pieces = (last - first) / step + 1e-9;  // a whole number may come out short
  std::vector<double> out;
  for (int i = 0; i <= pieces; ++i) out.push_back(first + i * step);
  return out;
}

/// Places data in the picture and draws its frame.
class Axes {
 public:
  explicit Axes(const LossHistory& history) {
    for (const auto* series : {&history.train, &history.eval}) {
      for (const LossPoint& point : *series) {
        steps_.add(point.step);
        losses_.add(point.loss);
      }
    }
    if (steps_.high <= steps_.low) steps_.high = steps_.low + 1;
    if (losses_.high - losses_.low < 1e-9) losses_ = {losses_.low - 0.5, losses_.high + 0.5};
    loss_tick_ = tick_step(losses_.high - losses_.low, 6);
    losses_.low = std::floor(losses_.low / loss_tick_) * loss_tick_;
    losses_.high = std::ceil(losses_.high / loss_tick_) * loss_tick_;
  }

  double x(double step) const {
    return kLeft + (kRight - kLeft) * (step - steps_.low) / (steps_.high - steps_.low);
  }
  double y(double loss) const {
    return kBottom - (kBottom - kTop) * (loss - losses_.low) / (losses_.high - losses_.low);
  }

  std::string frame() const {
    const int decimals = std::max(0, static_cast<int>(-std::floor(std::log10(loss_tick_))));
    std::string svg;
    for (const double loss : ticks(losses_.low, losses_.high, loss_tick_)) {
      svg += fmt::format(
          "<line class=\"rule\" x1=\"{}\" y1=\"{:.1f}\" x2=\"{}\" y2=\"{:.1f}\"/>"
          "<text x=\"{}\" y=\"{:.1f}\" text-anchor=\"end\">{:.{}f}</text>\n",
          kLeft, y(loss), kRight, y(loss), kLeft - 8, y(loss) + 4.5, loss, decimals);
    }
    const double step_tick = std::max(1.0, tick_step(steps_.high - steps_.low, 8));
    for (const double step :
         ticks(std::ceil(steps_.low / step_tick) * step_tick, steps_.high, step_tick)) {
      svg += fmt::format("<text x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\">{:.0f}</text>\n",
                         x(step), kBottom + 20, step);
    }
    return svg + fmt::format("<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">step</text>\n",
                             (kLeft + kRight) / 2, kBottom + 40);
  }

  std::string line(const std::vector<LossPoint>& points, const char* style) const {
    if (points.size() < 2) return "";
    std::string svg = fmt::format("<polyline class=\"{}\" points=\"", style);
    for (const LossPoint& p : points) svg += fmt::format("{:.1f},{:.1f} ", x(p.step), y(p.loss));
    svg.back() = '"';
    return svg + "/>\n";
  }

  std::string dots(const std::vector<LossPoint>& points) const {
    std::string svg;
    for (const LossPoint& p : points) {
      svg += fmt::format(
          "<circle class=\"dot\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"4\"><title>step {:.0f}: loss "
          "{:.4f}, perplexity {:.3f}</title></circle>\n",
          x(p.step), y(p.loss), p.step, p.loss, std::exp(p.loss));
    }
    return svg;
  }

 private:
  Range steps_, losses_;
  double loss_tick_ = 1;
};

/// The least and the greatest loss of each stretch, so that no spike is lost.
std::vector<LossPoint> thinned(const std::vector<LossPoint>& points) {
  if (points.size() <= kMostPoints) return points;
  std::vector<LossPoint> kept;
  const size_t stretches = kMostPoints / 2;
  for (size_t s = 0; s < stretches; ++s) {
    const auto first = points.begin() + static_cast<int64_t>(points.size() * s / stretches);
    const auto last = points.begin() + static_cast<int64_t>(points.size() * (s + 1) / stretches);
    auto [least, most] = std::minmax_element(
        first, last, [](const LossPoint& a, const LossPoint& b) { return a.loss < b.loss; });
    if (most < least) std::swap(least, most);
    kept.push_back(*least);
    if (most != least) kept.push_back(*most);
  }
  return kept;
}

/// Mean over a window around each step, 5% of the run wide.
std::vector<LossPoint> smoothed(const std::vector<LossPoint>& points) {
  std::vector<double> sums = {0};
  for (const LossPoint& point : points) sums.push_back(sums.back() + point.loss);
  const size_t reach = points.size() / 40 + 1;
  std::vector<LossPoint> means;
  for (size_t i = 0; i < points.size(); ++i) {
    const size_t first = i > reach ? i - reach : 0;
    const size_t last = std::min(i + reach + 1, points.size());
    means.push_back(
        {points[i].step, (sums[last] - sums[first]) / static_cast<double>(last - first)});
  }
  return means;
}

std::string legend(const LossHistory& history) {
  std::string svg;
  double right = kRight;
  const auto entry = [&](const char* style, const char* name, const std::vector<LossPoint>& points,
                         double width) {
    if (points.empty()) return;
    svg += fmt::format(
        "<line class=\"{}\" x1=\"{}\" y1=\"28\" x2=\"{}\" y2=\"28\"/><text x=\"{}\" y=\"32.5\">{} "
        "{:.3f}</text>\n",
        style, right - width, right - width + 24, right - width + 32, name, points.back().loss);
    right -= width + 20;
  };
  entry("eval", "evaluation", history.eval, 150);
  entry("mean", "training", history.train, 136);
  return svg;
}

}  // namespace

std::string loss_curve_svg(const LossHistory& history, const std::string& title) {
  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" role=\"img\" "
      "aria-label=\"Loss over steps\">\n{}",
      kWidth, kHeight, kStyle);
  svg += fmt::format("<rect width=\"{}\" height=\"{}\" fill=\"var(--paper)\"/>\n", kWidth, kHeight);
  svg += fmt::format("<text class=\"title\" x=\"{}\" y=\"33\">{}</text>\n", 20, markup_text(title));
  if (history.train.empty() && history.eval.empty()) {
    return svg + fmt::format(
                     "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">no steps yet</text>\n"
                     "</svg>\n",
                     kWidth / 2, kHeight / 2);
  }
  const Axes axes(history);
  svg += axes.frame();
  svg += axes.line(thinned(history.train), "raw");
  svg += axes.line(thinned(smoothed(history.train)), "mean");
  svg += axes.line(history.eval, "eval");
  svg += axes.dots(history.eval);
  return svg + legend(history) + "</svg>\n";
}

}  // namespace qlora::trainer
