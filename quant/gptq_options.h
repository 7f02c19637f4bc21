#pragma once

#include <cstdint>
#include <utility>

#include "core/constraint.h"
#include "core/fields.h"

namespace qlora::quant {

/// How the grid of a group is chosen from its weights.
enum class ScaleSearch {
  kMinMax,  // the range of the weights
  kMse,     // the narrowed range with the least squared error, each column by its curvature
  kGptq,    // the narrowed range with the least error that GPTQ itself ends with in this group
};

/// Frantar et al., GPTQ, arXiv:2210.17323.
struct GptqOptions {
  double damp_percent = 0.03;   // of the mean diagonal of the Hessian
  bool desc_act = false;        // columns by falling importance; needs g_idx at inference
  bool act_group_aware = true;  // the same within groups and between them; no cost at inference
  bool static_groups = false;   // grids from the original weights, before any is rounded
  ScaleSearch scale_search = ScaleSearch::kGptq;
  int64_t scale_steps = 16;   // grids that the search tries for a group
  double scale_least = 0.6;   // the narrowest of them, as a part of the range
  bool hessian_fp64 = false;  // factor the Hessian in 64 bits
};

template <class V>
void fields(V& v, GptqOptions& o) {
  v("damp_percent", o.damp_percent, in_range(0, 1),
    "damping of the Hessian as a part of its mean diagonal; doubled until the Hessian can be "
    "factored, rounding to nearest where 1 does not suffice");
  v("desc_act", o.desc_act, any_value(),
    "columns by falling importance; better, but needs g_idx at inference");
  v("act_group_aware", o.act_group_aware, any_value(),
    "groups, and the columns within each, by falling importance; no cost at inference; without "
    "effect under desc_act");
  v("static_groups", o.static_groups, any_value(),
    "scales and zero points from the original weights, before any is rounded");
  v("scale_search", o.scale_search, any_value(),
    "grid of a group: its range (minmax), the narrowed range of least squared error (mse), or of "
    "least error after GPTQ (gptq; mse under static_groups)");
  v("scale_steps", o.scale_steps, in_range(1, 200), "grids that the search tries for a group");
  v("scale_least", o.scale_least, in_range(0.05, 1),
    "the narrowest grid that the search tries, as a part of the range");
  v("hessian_fp64", o.hessian_fp64, any_value(), "factor the Hessian in 64 bits");
  v.alias("group_aware", "act_group_aware");
}

}  // namespace qlora::quant

template <>
struct qlora::EnumNames<qlora::quant::ScaleSearch> {
  using E = qlora::quant::ScaleSearch;
  static constexpr std::pair<E, const char*> kNames[] = {
      {E::kMinMax, "minmax"}, {E::kMse, "mse"}, {E::kGptq, "gptq"}};
};
