#pragma once

#include <utility>

#include "core/constraint.h"
#include "core/fields.h"

namespace qlora::quant {

/// How the one scale of static inputs follows from what was seen.
enum class ObserverKind {
  kMinMax,         // the greatest |x| of all steps
  kMovingAverage,  // the mean of the steps' greatest |x|, the last ones counting most
  kPercentile,     // the |x| that a given share of the numbers does not exceed
  kMse,            // the bound with the least expected squared error of rounding and cutting
};

struct ObserverOptions {
  ObserverKind kind = ObserverKind::kMovingAverage;
  double momentum = 0.9;       // what a step leaves of the average, or of the histogram
  double percentile = 0.9999;  // kPercentile alone
};

template <class V>
void fields(V& v, ObserverOptions& o) {
  v("observer", o.kind, any_value(),
    "what gives static inputs their scale: minmax, moving_average, percentile, mse");
  v("observer_momentum", o.momentum, in_range(0, 0.9999),
    "what a step leaves of the average or of the histogram");
  v("observer_percentile", o.percentile, in_range(0.5, 1),
    "percentile: share of the numbers that the scale reaches");
}

}  // namespace qlora::quant

template <>
struct qlora::EnumNames<qlora::quant::ObserverKind> {
  using E = qlora::quant::ObserverKind;
  static constexpr std::pair<E, const char*> kNames[] = {{E::kMinMax, "minmax"},
                                                         {E::kMovingAverage, "moving_average"},
                                                         {E::kPercentile, "percentile"},
                                                         {E::kMse, "mse"}};
};
