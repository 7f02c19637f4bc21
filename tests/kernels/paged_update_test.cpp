// The optimizer's step, whose states visit the device chunk by chunk.
#include <algorithm>
#include <memory>
#include <vector>

#include "tests/kernels/paged.h"
#include "tests/support/errors.h"
#include "trainer/device_update_cuda.h"

namespace qlora::trainer {
namespace {

using cuda::DeviceUpdate;
using emulation::Operation;
using testing::BackEnd;
using testing::DeviceArray;
using testing::is_kernel;
using testing::is_prefetch;
using testing::kChunk;
using testing::places;

class PagedUpdateTest : public testing::PagedTest {};

/// Parameters and gradients on the device, and the same step on the host as oracle.
class Steps {
 public:
  explicit Steps(std::vector<int64_t> counts) : counts_(std::move(counts)) {
    for (size_t i = 0; i < counts_.size(); ++i) {
      want_.push_back(testing::normal_values(counts_[i], static_cast<uint32_t>(i), 1));
      gradient_.push_back(testing::normal_values(counts_[i], static_cast<uint32_t>(50 + i), 1));
      parameters_.push_back(std::make_unique<DeviceArray<float>>(BackEnd::kCuda, want_[i]));
      gradients_.push_back(std::make_unique<DeviceArray<float>>(BackEnd::kCuda, gradient_[i]));
      mean_codes_.emplace_back(counts_[i]);
      square_codes_.emplace_back(counts_[i]);
      mean_absmax_.emplace_back((counts_[i] + 255) / 256);
      square_absmax_.emplace_back((counts_[i] + 255) / 256);
      mean_.emplace_back(counts_[i]);
      square_.emplace_back(counts_[i]);
    }
  }

  /// The gradients lie elsewhere from here on, as an allocator may have it.
  void move_gradients() {
    for (size_t i = 0; i < counts_.size(); ++i) {
      auto moved = std::make_unique<DeviceArray<float>>(BackEnd::kCuda, gradient_[i]);
      gradients_[i].swap(moved);
    }
  }

  void run(DeviceUpdate& update, int64_t t, cudaStream_t stream) {
    const AdamwStep step = adamw_step(1e-3, 0.9, 0.999, 1e-8, 0.1, t);
    std::vector<UpdateTensor> tensors;
    for (size_t i = 0; i < counts_.size(); ++i) {
      tensors.push_back({parameters_[i]->data(), gradients_[i]->data(), counts_[i]});
    }
    update.step(tensors, step, 0.5f, 0.25, nullptr, stream);
    const UpdateScalars got = update.result();
    EXPECT_EQ(got.applied, 1);
    EXPECT_LT(got.clip, 1);
    expect_norm(got);
    for (size_t i = 0; i < counts_.size(); ++i) {
      auto scaled = gradient_[i];
      for (float& g : scaled) g = g * 0.5f * got.clip;
      if (counts_[i] >= kAdamw8MinElements) {
        const Adamw8Tensor row{want_[i].data(),
                               scaled.data(),
                               mean_codes_[i].data(),
                               square_codes_[i].data(),
                               mean_absmax_[i].data(),
                               square_absmax_[i].data(),
                               counts_[i]};
        cpu::adamw8({.tensors = {&row, 1}, .step = step});
      } else {
        const Adamw32Tensor row{want_[i].data(), scaled.data(), mean_[i].data(), square_[i].data(),
                                counts_[i]};
        cpu::adamw32({.tensors = {&row, 1}, .step = step});
      }
      EXPECT_EQ(parameters_[i]->values(), want_[i]) << "tensor " << i << ", step " << t;
    }
  }

 private:
  void expect_norm(const UpdateScalars& got) {
    std::vector<GradientRange> ranges;
    for (const auto& g : gradient_) ranges.push_back({g.data(), std::ssize(g)});
    const std::span<const GradientRange> all(ranges);
    const auto blocks = first_blocks(all, kNormBlock);
    std::vector<double> scratch(norm_scratch_size(blocks.back()));
    UpdateScalars want{{}, 0.5f, 0.25, 0, 0, 0};
    cpu::gradient_norm({host_table(all, blocks), nullptr, scratch.data(), &want});
    EXPECT_EQ(got.norm, want.norm);
    EXPECT_EQ(got.clip, want.clip);
  }

  std::vector<int64_t> counts_;
  std::vector<std::vector<float>> want_, gradient_, mean_absmax_, square_absmax_, mean_, square_;
  std::vector<std::vector<uint8_t>> mean_codes_, square_codes_;
  std::vector<std::unique_ptr<DeviceArray<float>>> parameters_, gradients_;
};

/// Tensors whose states fill a chunk each, so that a few of them make the schedule visible: states
/// of 2.03 bytes an element.
constexpr int64_t kOfChunk = (int64_t{1} << 20);

TEST_P(PagedUpdateTest, AStepIsTheHostsWhetherPagedOrNot) {
  for (const bool is_paged : {true, false}) {
    if (auto* device = emulation::emulated_device()) {
      device->set_concurrent_managed_access(is_paged);
    }
    const std::vector<int64_t> counts = {5000, 30, 4096, 4095, 9000};
    DeviceUpdate update(counts, 0);
    if (update.is_paged() != is_paged) continue;  // a real device is what it is
    EXPECT_EQ(update.unpaged_bytes(), 8 * (30 + 4095));
    Steps steps(counts);
    const qlora::cuda::Stream stream;
    for (int64_t t = 1; t <= 4; ++t) {
      if (t == 4) steps.move_gradients();
      steps.run(update, t, stream.get());
      EXPECT_EQ(update.replays(), !is_paged && t >= 2);  // with new scalars each time
    }
    const auto stats = update.paging_stats();
    EXPECT_EQ(stats.bytes_in, is_paged ? update.paged_bytes() : 0);
    EXPECT_EQ(stats.bytes_out, 0);  // there is room for them
  }
}

TEST_P(PagedUpdateTest, StatesGoBackWhileTheDeviceIsShortOfMemory) {
  if (emulation::emulated_device() == nullptr) GTEST_SKIP() << "a device is not filled for a test";
  const std::vector<int64_t> counts = {5000, 30, 4096};
  DeviceUpdate update(counts, 0);
  Steps steps(counts);
  const qlora::cuda::Stream stream;
  const int64_t bytes = update.paged_bytes();
  const auto run = [&](int64_t t) {
    steps.run(update, t, stream.get());
    return update.paging_stats();
  };
  EXPECT_EQ(run(1).bytes_out, 0);
  leave(1 << 10);
  EXPECT_EQ(run(2).bytes_out, bytes);  // those that had stayed
  EXPECT_EQ(run(3).bytes_out, 2 * bytes);
  emulation::emulated_device()->set_capacity(kCapacity);
  const auto stats = run(4);
  EXPECT_EQ(stats.bytes_out, 2 * bytes);
  EXPECT_EQ(stats.bytes_in, 3 * bytes);
}

TEST_P(PagedUpdateTest, ChunksComeBeforeTheirUpdateAndGoAfterIt) {
  auto* const device = emulation::emulated_device();
  if (device == nullptr) GTEST_SKIP() << "the order is asserted under emulation";
  const std::vector<int64_t> counts(5, kOfChunk);
  for (const uint64_t seed : {3}) {
    device->set_seed(seed);
    DeviceUpdate update(counts, 0);
    ASSERT_TRUE(update.is_paged());
    std::vector<std::unique_ptr<DeviceArray<float>>> arrays;
    std::vector<UpdateTensor> tensors;
    for (const int64_t count : counts) {
      arrays.push_back(
          std::make_unique<DeviceArray<float>>(BackEnd::kCuda, std::vector<float>(count, 0.0f)));
      tensors.push_back({arrays.back()->data(), arrays.back()->data(), count});
    }
    // A loss that is not finite: nothing is updated, so that the emulated kernels end at once.
    DeviceArray<float> loss(BackEnd::kCuda, {std::nanf("")});
    const qlora::cuda::Stream stream;
    leave(kChunk / 4);
    device->clear_operations();
    update.step(tensors, adamw_step(1e-3, 0.9, 0.999, 1e-8, 0.1, 1), 1, 0, loss.data(),
                stream.get());
    EXPECT_EQ(update.result().applied, 0);
    qlora::cuda::check(cudaDeviceSynchronize());
    const auto log = device->operations();
    const auto in = places(log, [](const Operation& o) { return is_prefetch(o, 0); });
    const auto out = places(log, [](const Operation& o) { return is_prefetch(o, -1); });
    const auto updates =
        places(log, [](const Operation& o) { return is_kernel(o, "fused_adamw8"); });
    ASSERT_EQ(in.size(), 5u);
    ASSERT_EQ(out.size(), 5u);
    ASSERT_EQ(updates.size(), 5u);
    int64_t moved = 0;
    for (size_t c = 0; c < 5; ++c) {
      EXPECT_GE(log[in[c]].bytes, kChunk);
      EXPECT_EQ(log[in[c]].bytes, log[out[c]].bytes);
      EXPECT_EQ(log[in[c]].address, log[out[c]].address);
      EXPECT_NE(log[in[c]].stream, log[updates[c]].stream);
      EXPECT_EQ(log[in[c]].stream, log[out[c]].stream);
      EXPECT_LT(in[c], updates[c]);
      EXPECT_LT(updates[c], out[c]);
      // On the side stream a chunk is asked for two updates ahead: before the one in work goes.
      if (c + DeviceUpdate::kLookAhead < 5) {
        EXPECT_LT(in[c + DeviceUpdate::kLookAhead], out[c]);
      }
      // And no sooner: at most three chunks are on the device at once.
      if (c + DeviceUpdate::kLookAhead + 1 < 5) {
        EXPECT_LT(out[c], in[c + DeviceUpdate::kLookAhead + 1]);
      }
      moved += static_cast<int64_t>(log[in[c]].bytes);
    }
    EXPECT_EQ(moved, update.paged_bytes());
  }
}

// An expert that no token chose has no gradient: its states and its share of the norm stay out.
TEST_P(PagedUpdateTest, ATensorWithoutAGradientIsLeftAlone) {
  const std::vector<int64_t> counts = {5000, 30, 4096};
  DeviceUpdate update(counts, 0);
  std::vector<std::unique_ptr<DeviceArray<float>>> parameters;
  std::vector<UpdateTensor> tensors;
  DeviceArray<float> ones(BackEnd::kCuda, std::vector<float>(5000, 1.0f));
  for (const int64_t count : counts) {
    parameters.push_back(std::make_unique<DeviceArray<float>>(
        BackEnd::kCuda, std::vector<float>(static_cast<size_t>(count), 1.0f)));
    tensors.push_back({parameters.back()->data(), ones.data(), count});
  }
  tensors[0].gradient = nullptr;
  tensors[1].gradient = nullptr;
  update.step(tensors, adamw_step(0.5, 0.9, 0.999, 1e-8, 0, 1), 1, 0, nullptr, nullptr);
  EXPECT_EQ(update.result().norm, 64);  // sqrt(4096)
  EXPECT_EQ(parameters[0]->values(), std::vector<float>(5000, 1.0f));
  EXPECT_EQ(parameters[1]->values(), std::vector<float>(30, 1.0f));
  const float after = parameters[2]->values()[0];
  EXPECT_NEAR(after, 0.5f, 1e-6);
  for (UpdateTensor& tensor : tensors) tensor.gradient = nullptr;
  update.step(tensors, adamw_step(0.5, 0.9, 0.999, 1e-8, 0, 2), 1, 0, nullptr, nullptr);
  EXPECT_EQ(update.result().norm, 0);
  EXPECT_EQ(parameters[2]->values()[0], after);
}

TEST_P(PagedUpdateTest, StatesAreHeldAsAskedFor) {
  const std::vector<int64_t> counts = {5000, 30};
  const DeviceUpdate plain(counts, 0, DeviceStates::k8bit);
  EXPECT_FALSE(plain.is_paged());
  EXPECT_TRUE(plain.states(0).is_8bit);
  EXPECT_FALSE(plain.states(1).is_8bit);
  const DeviceUpdate wide(counts, 0, DeviceStates::k32bit);
  EXPECT_FALSE(wide.is_paged());
  EXPECT_EQ(wide.paged_bytes(), 0);
  EXPECT_EQ(wide.unpaged_bytes(), 8 * 5030);
  EXPECT_FALSE(wide.states(0).is_8bit);
  EXPECT_EQ(static_cast<float*>(wide.states(1).mean) - static_cast<float*>(wide.states(0).mean),
            2 * 5000);
}

TEST_P(PagedUpdateTest, TensorsOfOtherSizesAreRefused) {
  DeviceUpdate update(std::vector<int64_t>{5000, 10}, 0);
  const auto step = [&](std::vector<UpdateTensor> tensors) {
    update.step(tensors, adamw_step(1e-3, 0.9, 0.999, 1e-8, 0.1, 1), 1, 0, nullptr, nullptr);
  };
  EXPECT_ERROR(ShapeError, step({{nullptr, nullptr, 5000}}), "1 tensors, allowed 2");
  EXPECT_ERROR(ShapeError, step({{nullptr, nullptr, 5000}, {nullptr, nullptr, 11}}),
               "11 elements, allowed 10");
}

INSTANTIATE_TEST_SUITE_P(, PagedUpdateTest,
                         ::testing::Values(testing::KernelCase{BackEnd::kCuda, FloatKind::kF32}),
                         testing::case_name);

}  // namespace
}  // namespace qlora::trainer
