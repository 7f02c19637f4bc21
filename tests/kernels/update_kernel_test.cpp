// The optimizer's step: norm of all gradients, then one update of all tensors. All bit-exact.
#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <random>

#include "tests/kernels/back_end.h"
#include "trainer/fused_update_backend.h"
#include "trainer/gradient_norm_backend.h"

namespace qlora::trainer {
namespace {

using testing::DeviceArray;

AdamwStep step_of(int64_t t) {
  return adamw_step(2e-4, 0.9, 0.999, 1e-8, 0.1, t);
}

/// Gradients over eight decades, with zeros of both signs.
std::vector<float> gradient_of(int64_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::uniform_real_distribution<float> uniform(0, 1);
  std::vector<float> g(count);
  for (float& x : g) x = normal(random) * std::pow(10.0f, -8 * uniform(random));
  for (int64_t i = 5; i < count; i += 91) g[i] = i % 2 ? 0.0f : -0.0f;
  return g;
}

class NormKernel : public testing::KernelTest {
 protected:
  UpdateScalars norm_of(const std::vector<std::vector<float>>& gradients, float unscale,
                        double max_norm, const float* loss = nullptr) {
    std::vector<std::unique_ptr<DeviceArray<float>>> arrays;
    std::vector<GradientRange> ranges;
    for (const auto& g : gradients) {
      arrays.push_back(std::make_unique<DeviceArray<float>>(back_end(), g));
      ranges.push_back({arrays.back()->data(), std::ssize(g)});
    }
    const auto blocks = first_blocks(std::span<const GradientRange>(ranges), kNormBlock);
    auto table = array(ranges);
    auto first = array(blocks);
    auto scratch = filled(std::max<int64_t>(1, norm_scratch_size(blocks.back())), -1.0);
    auto device_loss = array(std::vector<float>{loss != nullptr ? *loss : 0});
    const UpdateScalars before{step_of(1), unscale, max_norm, -1, -1, -1};
    auto scalars = array(std::vector<UpdateScalars>{before});
    const GradientNormArgs args{
        .gradients = {table.data(), first.data(), std::ssize(ranges), blocks.back()},
        .loss = loss != nullptr ? device_loss.data() : nullptr,
        .scratch = scratch.data(),
        .scalars = scalars.data()};
    is_cuda() ? cuda::gradient_norm(args) : cpu::gradient_norm(args);
    return scalars.values()[0];
  }
};

/// The definition: chains of 16 in a row of 256, the tree of each block, the tree of blocks.
double plain_norm(const std::vector<std::vector<float>>& gradients, float unscale) {
  std::vector<double> sums;
  for (const auto& g : gradients) {
    for (int64_t first = 0; first < std::ssize(g); first += kNormBlock) {
      std::vector<double> v(256, 0.0);
      for (int64_t i = first; i < std::min(first + kNormBlock, std::ssize(g)); ++i) {
        const double x = g[i] * unscale;
        v[i % 256] += x * x;
      }
      sums.push_back(quant::sum_group(v.data()));
    }
  }
  while (sums.size() > 1) {
    std::vector<double> next;
    for (size_t first = 0; first < sums.size(); first += 256) {
      std::vector<double> v(256, 0.0);
      std::copy(sums.begin() + first, sums.begin() + std::min(first + 256, sums.size()), v.begin());
      next.push_back(quant::sum_group(v.data()));
    }
    sums = next;
  }
  return sums.empty() ? 0 : std::sqrt(sums[0]);
}

TEST_P(NormKernel, IsTheDefinitionToTheBit) {
  const std::vector<std::vector<float>> few = {gradient_of(1, 1), gradient_of(4097, 2),
                                               gradient_of(300, 3)};
  for (const float unscale : {1.0f, 0.1f, 0x1p-16f}) {
    const UpdateScalars got = norm_of(few, unscale, 0);
    EXPECT_EQ(got.norm, plain_norm(few, unscale));
    EXPECT_EQ(got.clip, 1);
    EXPECT_EQ(got.applied, 1);
  }
  std::vector<std::vector<float>> many;  // more than 256 blocks: a second level of the tree
  for (uint32_t i = 0; i < 261; ++i) many.push_back(gradient_of(1 + i % 7 * 20, i));
  EXPECT_EQ(norm_of(many, 1, 0).norm, plain_norm(many, 1));
}

TEST_P(NormKernel, ClipsAsTorch) {
  const std::vector<std::vector<float>> g = {std::vector<float>(100, 3.0f)};  // norm 30
  EXPECT_EQ(norm_of(g, 1, 31).clip, 1);
  EXPECT_EQ(norm_of(g, 1, 30).clip, 1);
  EXPECT_EQ(norm_of(g, 1, 0.3).clip, static_cast<float>(0.3 / (30 + 1e-6)));
  EXPECT_EQ(norm_of(g, 2, 0.3).clip, static_cast<float>(0.3 / (60 + 1e-6)));
}

TEST_P(NormKernel, WhatIsNotFiniteIsNotApplied) {
  const float inf = std::numeric_limits<float>::infinity();
  for (const float bad : {std::nanf(""), inf, -inf, 1e25f}) {
    auto g = gradient_of(9000, 4);
    g[8999] = bad;
    const UpdateScalars got = norm_of({gradient_of(50, 1), g}, 1, 1);
    EXPECT_EQ(got.applied, 0) << bad;
    EXPECT_EQ(got.clip, 1);
    EXPECT_FALSE(got.norm < kHighestNorm);
  }
  for (const float loss : {std::nanf(""), inf}) {
    EXPECT_EQ(norm_of({gradient_of(50, 1)}, 1, 1, &loss).applied, 0);
  }
  const float fine = 2.5f;
  EXPECT_EQ(norm_of({gradient_of(50, 1)}, 1, 1, &fine).applied, 1);
  EXPECT_EQ(norm_of({}, 1, 1).applied, 1);
}

INSTANTIATE_TEST_SUITE_P(, NormKernel, ::testing::ValuesIn(testing::f32_cases()),
                         testing::case_name);

/// All numbers of one tensor.
struct State {
  std::vector<float> parameter, gradient;
  std::vector<uint8_t> mean_codes, square_codes;
  std::vector<float> mean_absmax, square_absmax, mean, square;

  State(int64_t count, uint32_t seed)
      : parameter(testing::normal_values(count, seed, 1)),
        mean_codes(count),
        square_codes(count),
        mean_absmax((count + 255) / 256),
        square_absmax((count + 255) / 256),
        mean(count),
        square(count) {}
  Adamw8Tensor row8(const float* g) {
    return {parameter.data(),     g,
            mean_codes.data(),    square_codes.data(),
            mean_absmax.data(),   square_absmax.data(),
            std::ssize(parameter)};
  }
  Adamw32Tensor row32(const float* g) {
    return {parameter.data(), g, mean.data(), square.data(), std::ssize(parameter)};
  }
};

/// A tensor where the back end computes; `offset` numbers after an aligned place.
struct Held {
  DeviceArray<float> parameter, gradient;
  DeviceArray<uint8_t> mean_codes, square_codes;
  DeviceArray<float> mean_absmax, square_absmax, mean, square;
  int64_t count, offset;

  template <class T>
  static std::vector<T> moved(const std::vector<T>& values, int64_t offset) {
    std::vector<T> all(offset, T{99});
    all.insert(all.end(), values.begin(), values.end());
    return all;
  }
  Held(testing::BackEnd to, const State& s, int64_t offset)
      : parameter(to, moved(s.parameter, offset)),
        gradient(to, moved(s.gradient, offset)),
        mean_codes(to, moved(s.mean_codes, offset)),
        square_codes(to, moved(s.square_codes, offset)),
        mean_absmax(to, s.mean_absmax),
        square_absmax(to, s.square_absmax),
        mean(to, moved(s.mean, offset)),
        square(to, moved(s.square, offset)),
        count(std::ssize(s.parameter)),
        offset(offset) {}
  Adamw8Tensor row8() {
    return {parameter.data() + offset,
            gradient.data() + offset,
            mean_codes.data() + offset,
            square_codes.data() + offset,
            mean_absmax.data(),
            square_absmax.data(),
            count};
  }
  Adamw32Tensor row32() {
    return {parameter.data() + offset, gradient.data() + offset, mean.data() + offset,
            square.data() + offset, count};
  }
  template <class T>
  std::vector<T> tail(const DeviceArray<T>& array) const {
    const auto all = array.values();
    return {all.begin() + offset, all.end()};
  }
  void read(State& s) const {
    s.parameter = tail(parameter);
    s.mean_codes = tail(mean_codes);
    s.square_codes = tail(square_codes);
    s.mean_absmax = mean_absmax.values();
    s.square_absmax = square_absmax.values();
    s.mean = tail(mean);
    s.square = tail(square);
  }
};

template <class Row>
struct Tables {
  std::vector<int64_t> first;
  DeviceArray<Row> rows;
  DeviceArray<int64_t> first_block;

  Tables(testing::BackEnd to, const std::vector<Row>& host)
      : first(first_blocks(std::span<const Row>(host), kAdamwBlock)),
        rows(to, host),
        first_block(to, first) {}
  TensorTable<Row> table() {
    return {rows.data(), first_block.data(), std::ssize(first) - 1, first.back()};
  }
};

class FusedKernel : public testing::KernelTest {
 protected:
  /// Five steps of all tensors at once against the single update with gradients scaled before.
  template <bool Is8>
  void expect_steps(const std::vector<int64_t>& counts, float unscale, float clip) {
    std::vector<State> want, got;
    for (size_t i = 0; i < counts.size(); ++i) {
      want.emplace_back(counts[i], static_cast<uint32_t>(i));
      got.emplace_back(counts[i], static_cast<uint32_t>(i));
    }
    for (int64_t t = 1; t <= 5; ++t) {
      const UpdateScalars scalars{step_of(t), unscale, 0, 0, clip, t == 3 ? 0 : 1};
      for (size_t i = 0; i < counts.size(); ++i) {
        got[i].gradient = gradient_of(counts[i], static_cast<uint32_t>(100 * t + i));
        for (int64_t e = 0; e < std::min<int64_t>(counts[i], 300); ++e) got[i].gradient[e] = 0;
        if (scalars.applied == 0) continue;
        auto scaled = got[i].gradient;
        for (float& g : scaled) g = g * unscale * clip;
        if constexpr (Is8) {
          const Adamw8Tensor row = want[i].row8(scaled.data());
          cpu::adamw8({.tensors = {&row, 1}, .step = scalars.step});
        } else {
          const Adamw32Tensor row = want[i].row32(scaled.data());
          cpu::adamw32({.tensors = {&row, 1}, .step = scalars.step});
        }
      }
      run<Is8>(got, scalars);
      for (size_t i = 0; i < counts.size(); ++i) {
        SCOPED_TRACE(::testing::Message() << "step " << t << ", tensor " << i);
        ASSERT_EQ(got[i].parameter, want[i].parameter);
        ASSERT_EQ(got[i].mean_codes, want[i].mean_codes);
        ASSERT_EQ(got[i].square_codes, want[i].square_codes);
        ASSERT_EQ(got[i].mean_absmax, want[i].mean_absmax);
        ASSERT_EQ(got[i].square_absmax, want[i].square_absmax);
        ASSERT_EQ(got[i].mean, want[i].mean);
        ASSERT_EQ(got[i].square, want[i].square);
      }
    }
  }

  template <bool Is8>
  void run(std::vector<State>& states, const UpdateScalars& host_scalars) {
    using Row = std::conditional_t<Is8, Adamw8Tensor, Adamw32Tensor>;
    std::vector<std::unique_ptr<Held>> held;
    std::vector<Row> rows;
    for (size_t i = 0; i < states.size(); ++i) {
      held.push_back(std::make_unique<Held>(back_end(), states[i], i % 2 == 1 ? 1 : 0));
      if constexpr (Is8) {
        rows.push_back(held.back()->row8());
      } else {
        rows.push_back(held.back()->row32());
      }
    }
    Tables<Row> tables(back_end(), rows);
    auto scalars = array(std::vector<UpdateScalars>{host_scalars});
    if constexpr (Is8) {
      const FusedAdamw8Args args{tables.table(), scalars.data()};
      is_cuda() ? cuda::fused_adamw8(args) : cpu::fused_adamw8(args);
    } else {
      const FusedAdamw32Args args{tables.table(), scalars.data()};
      is_cuda() ? cuda::fused_adamw32(args) : cpu::fused_adamw32(args);
    }
    for (size_t i = 0; i < states.size(); ++i) held[i]->read(states[i]);
  }
};

TEST_P(FusedKernel, EightBitStatesOfManyTensors) {
  expect_steps<true>({4096, 256, 1, 9001, 0, 255, 300}, 1, 1);
  expect_steps<true>({513, 700}, 0.1f, 0.37f);
}

TEST_P(FusedKernel, ThirtyTwoBitStatesOfManyTensors) {
  expect_steps<false>({256, 1, 1001, 0, 255}, 1, 1);
  expect_steps<false>({513, 700}, 0x1p-16f, 0.37f);
}

INSTANTIATE_TEST_SUITE_P(, FusedKernel, ::testing::ValuesIn(testing::f32_cases()),
                         testing::case_name);

}  // namespace
}  // namespace qlora::trainer
