#pragma once

#include <cstdint>

#include "core/constraint.h"
#include "core/fields.h"

namespace qlora::quant {

/// Lin et al., AWQ, arXiv:2306.00978.
struct AwqOptions {
  int64_t scale_steps = 20;  // exponents α that are tried: 0, 1/steps … (steps - 1)/steps
  bool duo_scaling = true;   // also the form with the weights' own size
  bool clip = true;          // narrow each group's range where that lowers the error
  int64_t clip_steps = 20;   // steps from the whole range to none
  double clip_least = 0.5;   // the narrowest range that is tried, as a part of it
};

template <class V>
void fields(V& v, AwqOptions& o) {
  v("awq_scale_steps", o.scale_steps, in_range(1, 200),
    "exponents that the scale search tries between 0 and 1");
  v("duo_scaling", o.duo_scaling, any_value(),
    "try scales from activations and weights beside those from activations alone");
  v("awq_clip", o.clip, any_value(), "narrow the range of groups where that lowers the error");
  v("awq_clip_steps", o.clip_steps, in_range(2, 200), "steps from the whole range to none");
  v("awq_clip_least", o.clip_least, in_range(0.05, 1),
    "the narrowest range that is tried, as a part of the whole one");
}

}  // namespace qlora::quant
