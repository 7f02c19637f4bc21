#include "model/attention_backend.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "model/attention_cpu.cpp"
#include <hwy/aligned_allocator.h>
#include <hwy/foreach_target.h>
// The order matters: foreach_target.h first.
#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/parallel.h"
#include "core/simd_float-inl.h"

HWY_BEFORE_NAMESPACE();
namespace qlora::model::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using namespace qlora::HWY_NAMESPACE;  // NOLINT: the lanes of core/simd_float-inl.h

/// A score out of a product q·k: scaled, and capped where there is a cap.
template <bool kCapped>
struct Score {
  FloatTag d;
  float scale, cap;
  FloatLanes scale_lanes, cap_lanes, ratio_lanes;

  Score(float scale_of, float cap_of)
      : scale(scale_of),
        cap(cap_of),
        scale_lanes(hn::Set(d, scale)),
        cap_lanes(hn::Set(d, cap)),
        ratio_lanes(hn::Set(d, kCapped ? scale / cap : 0)) {}

  HWY_INLINE FloatLanes lanes(FloatLanes x) const {
    if constexpr (kCapped) return hn::Mul(cap_lanes, hn::Tanh(d, hn::Mul(x, ratio_lanes)));
    return hn::Mul(x, scale_lanes);
  }
  HWY_INLINE float one(float x) const {
    if constexpr (kCapped) return cap * std::tanh(x * (scale / cap));
    return x * scale;
  }
  /// d score / d product, of a score
  HWY_INLINE FloatLanes slope_lanes(FloatLanes score) const {
    if constexpr (!kCapped) return scale_lanes;
    const auto t = hn::Div(score, cap_lanes);
    return hn::Mul(scale_lanes, hn::Sub(hn::Set(d, 1.0f), hn::Mul(t, t)));
  }
  HWY_INLINE float slope_one(float score) const {
    if constexpr (!kCapped) return scale;
    return scale * (1.0f - (score / cap) * (score / cap));
  }
};

template <class T>
void clear(T* x, int64_t begin, int64_t end) {
  if (begin < end)
    std::memset(static_cast<void*>(x + begin), 0, static_cast<size_t>(end - begin) * sizeof(T));
}

/// Columns [begin, end) of a row are visible. The exponentials are made once, in `scratch`, which
/// has room for the row and one vector.
template <class T, class S>
void softmax_row(T* row, int64_t begin, int64_t end, int64_t keys, const S& score, float* scratch,
                 float* logsumexp) {
  constexpr float kLowest = -std::numeric_limits<float>::infinity();
  const FloatTag d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d)), visible = end - begin;
  const int64_t padded = (visible + lanes - 1) / lanes * lanes;
  T* x = row + begin;
  auto top_lanes = hn::Set(d, kLowest);
  for_lanes(
      d, visible,
      [&](int64_t i) {
        const auto s = score.lanes(load_f32(d, x + i));
        top_lanes = hn::Max(top_lanes, s);
        hn::StoreU(s, d, scratch + i);
      },
      [&](int64_t i) { scratch[i] = score.one(load_one(x + i)); });
  std::fill(scratch + visible, scratch + padded, kLowest);  // exp makes 0 of it
  if (padded > visible) top_lanes = hn::Max(top_lanes, hn::LoadU(d, scratch + padded - lanes));

  const auto top = hn::MaxOfLanes(d, top_lanes);
  auto sum_lanes = hn::Zero(d);
  for (int64_t i = 0; i < padded; i += lanes) {
    const auto e = hn::Exp(d, hn::Sub(hn::LoadU(d, scratch + i), top));
    sum_lanes = hn::Add(sum_lanes, e);
    hn::StoreU(e, d, scratch + i);
  }
  const float sum = hn::GetLane(hn::SumOfLanes(d, sum_lanes));
  *logsumexp = hn::GetLane(top) + std::log(sum);

  const float inverse = 1 / sum;
  const auto inverse_lanes = hn::Set(d, inverse);
  for_lanes(
      d, visible,
      [&](int64_t i) { store_f32(d, hn::Mul(hn::LoadU(d, scratch + i), inverse_lanes), x + i); },
      [&](int64_t i) { store_one(scratch[i] * inverse, x + i); });
  clear(row, 0, begin);
  clear(row, end, keys);
}

template <class T>
float dot(const T* x, const T* y, int64_t n) {
  const FloatTag d;
  auto lanes = hn::Zero(d);
  float rest = 0;
  for_lanes(
      d, n,
      [&](int64_t i) { lanes = hn::Add(lanes, hn::Mul(load_f32(d, x + i), load_f32(d, y + i))); },
      [&](int64_t i) { rest += load_one(x + i) * load_one(y + i); });
  return hn::GetLane(hn::SumOfLanes(d, lanes)) + rest;
}

template <class T, class S>
void backward_row(T* row, T* drow, int64_t begin, int64_t end, int64_t keys, const S& score,
                  float logsumexp, float mean) {
  const FloatTag d;
  T* x = row + begin;
  T* dx = drow + begin;
  const auto total = hn::Set(d, logsumexp), pull = hn::Set(d, mean);
  for_lanes(
      d, end - begin,
      [&](int64_t i) {
        const auto s = score.lanes(load_f32(d, x + i));
        const auto p = hn::Exp(d, hn::Sub(s, total));
        const auto slope = hn::Mul(p, hn::Sub(load_f32(d, dx + i), pull));
        store_f32(d, p, x + i);
        store_f32(d, hn::Mul(score.slope_lanes(s), slope), dx + i);
      },
      [&](int64_t i) {
        const float s = score.one(load_one(x + i));
        const float p = std::exp(s - logsumexp);
        store_one(score.slope_one(s) * (p * (load_one(dx + i) - mean)), dx + i);
        store_one(p, x + i);
      });
  for (T* values : {row, drow}) {
    clear(values, 0, begin);
    clear(values, end, keys);
  }
}

/// Calls f(typed null pointer, score) for the number type and the kind of score.
template <class F>
void with_score(const CausalRows& s, const F& f) {
  with_kind(s.kind, [&](auto* p) {
    if (s.softcap > 0) {
      f(p, Score<true>(s.scale, s.softcap));
    } else {
      f(p, Score<false>(s.scale, 0));
    }
  });
}

void causal_softmax(const CausalSoftmaxArgs& a, int64_t begin, int64_t end) {
  const CausalRows& s = a.shape;
  with_score(s, [&](auto* p, const auto& score) {
    using T = std::remove_pointer_t<decltype(p)>;
    const size_t room = static_cast<size_t>(s.keys) + hn::Lanes(FloatTag());
    const auto scratch = hwy::AllocateAligned<float>(room);
    for (int64_t r = begin; r < end; ++r) {
      const int64_t row = r % s.rows;
      softmax_row(static_cast<T*>(a.scores) + r * s.keys, s.begin(row), s.end(row), s.keys, score,
                  scratch.get(), a.logsumexp + r);
    }
  });
}

void causal_softmax_backward(const CausalSoftmaxBackwardArgs& a, int64_t begin, int64_t end) {
  const CausalRows& s = a.shape;
  with_score(s, [&](auto* p, const auto& score) {
    using T = std::remove_pointer_t<decltype(p)>;
    for (int64_t r = begin; r < end; ++r) {
      const int64_t row = r % s.rows;
      const float mean = dot(static_cast<const T*>(a.out) + r * s.head_dim,
                             static_cast<const T*>(a.dout) + r * s.head_dim, s.head_dim);
      backward_row(static_cast<T*>(a.scores) + r * s.keys, static_cast<T*>(a.dscores) + r * s.keys,
                   s.begin(row), s.end(row), s.keys, score, a.logsumexp[r], mean);
    }
  });
}

}  // namespace qlora::model::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace qlora::model::cpu {

namespace {

/// Calls copy(flat offset, matrix offset, inside) in bytes for every row of D elements.
template <class Copy>
void for_head_rows(const HeadLayout& l, const Copy& copy) {
  const int64_t heads = l.kv_heads * l.group;
  parallel_for(l.segments * heads, 4, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const int64_t segment = n / heads, head = n % heads;
      for (int64_t i = 0; i < l.queries; ++i) {
        const int64_t position = l.first + i;
        const int64_t token = l.begins[segment] + position;
        copy((token * heads + head) * l.row_bytes, (n * l.queries + i) * l.row_bytes,
             position < l.lengths[segment]);
      }
    }
  });
}

}  // namespace

void gather_heads(const HeadLayout& layout, const void* flat, void* matrices) {
  const char* from = static_cast<const char*>(flat);
  char* to = static_cast<char*>(matrices);
  const size_t bytes = static_cast<size_t>(layout.row_bytes);
  for_head_rows(layout, [&](int64_t flat_offset, int64_t matrix_offset, bool inside) {
    if (inside) {
      std::memcpy(to + matrix_offset, from + flat_offset, bytes);
    } else {
      std::memset(to + matrix_offset, 0, bytes);
    }
  });
}

void scatter_heads(const HeadLayout& layout, const void* matrices, void* flat) {
  const char* from = static_cast<const char*>(matrices);
  char* to = static_cast<char*>(flat);
  const size_t bytes = static_cast<size_t>(layout.row_bytes);
  for_head_rows(layout, [&](int64_t flat_offset, int64_t matrix_offset, bool inside) {
    if (inside) std::memcpy(to + flat_offset, from + matrix_offset, bytes);
  });
}

HWY_EXPORT(causal_softmax);
HWY_EXPORT(causal_softmax_backward);

void causal_softmax(const CausalSoftmaxArgs& a) {
  parallel_for(a.shape.batches * a.shape.rows, 32, [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(causal_softmax)(a, begin, end);
  });
}

void causal_softmax_backward(const CausalSoftmaxBackwardArgs& a) {
  parallel_for(a.shape.batches * a.shape.rows, 32, [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(causal_softmax_backward)(a, begin, end);
  });
}
}  // namespace qlora::model::cpu
#endif
