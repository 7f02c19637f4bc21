#include "trainer/adamw32_backend.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "trainer/adamw32_cpu.cpp"
#include <hwy/foreach_target.h>
// The order matters: foreach_target.h first.
#include <hwy/highway.h>

#include "trainer/tensor_ranges.h"

HWY_BEFORE_NAMESPACE();
namespace qlora::trainer::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// Elements [begin, end) of one tensor.
void update_range(const Adamw32Tensor& t, int64_t begin, int64_t end, const AdamwStep& s) {
  const hn::ScalableTag<float> d;
  const auto beta1 = hn::Set(d, s.beta1), rest1 = hn::Set(d, s.rest1);
  const auto beta2 = hn::Set(d, s.beta2), rest2 = hn::Set(d, s.rest2);
  const auto epsilon = hn::Set(d, s.epsilon), decay = hn::Set(d, s.decay);
  const auto size = hn::Set(d, s.step_size), root = hn::Set(d, s.inverse_root);
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = begin;
  for (; i + lanes <= end; i += lanes) {
    const auto g = hn::LoadU(d, t.gradient + i);
    const auto m = hn::Add(hn::Mul(hn::LoadU(d, t.mean + i), beta1), hn::Mul(g, rest1));
    const auto v =
        hn::Add(hn::Mul(hn::LoadU(d, t.square + i), beta2), hn::Mul(hn::Mul(rest2, g), g));
    const auto ratio = hn::Div(m, hn::Add(hn::Mul(hn::Sqrt(v), root), epsilon));
    const auto p = hn::Add(hn::Mul(hn::LoadU(d, t.parameter + i), decay), hn::Mul(size, ratio));
    hn::StoreU(m, d, t.mean + i);
    hn::StoreU(v, d, t.square + i);
    hn::StoreU(p, d, t.parameter + i);
  }
  for (; i < end; ++i) {
    t.mean[i] = adamw_mean(t.mean[i], t.gradient[i], s);
    t.square[i] = adamw_square(t.square[i], t.gradient[i], s);
    t.parameter[i] = adamw_parameter(t.parameter[i], t.mean[i], t.square[i], s);
  }
}

}  // namespace qlora::trainer::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace qlora::trainer::cpu {
HWY_EXPORT(update_range);

void adamw32_range(const Adamw32Tensor& tensor, int64_t begin, int64_t end, const AdamwStep& step) {
  HWY_DYNAMIC_DISPATCH(update_range)(tensor, begin, end, step);
}

void adamw32(const Adamw32Args& args) {
  parallel_over_blocks(args.tensors, kAdamwBlock, 64,
                       [&](const Adamw32Tensor& tensor, int64_t begin, int64_t end) {
                         adamw32_range(tensor, begin, end, args.step);
                       });
}

}  // namespace qlora::trainer::cpu
#endif
