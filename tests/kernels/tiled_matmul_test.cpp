// The schedule of products with weights that are decoded tile by tile.
#include <string>
#include <vector>

#include "quant/nf4_backend.h"
#include "quant/tiled_matmul_cuda.h"
#include "tests/emulation/emulated_cuda.h"
#include "tests/kernels/back_end.h"
#include "tests/support/errors.h"

namespace qlora::quant {
namespace {

using cuda::TiledMatmul;
using emulation::Operation;
using emulation::OperationKind;
using testing::BackEnd;
using testing::DeviceArray;

constexpr int64_t kBlock = 64;

/// An NF4 matrix on the device.
class Nf4Source : public TileSource {
 public:
  Nf4Source(int64_t rows, int64_t cols, uint32_t seed)
      : cols_(cols),
        codes_(testing::random_bytes(rows * cols / 2, seed)),
        absmax_(testing::normal_values(rows * cols / kBlock, seed, 0.3f)),
        device_codes_(BackEnd::kCuda, codes_),
        device_absmax_(BackEnd::kCuda, absmax_) {}

  void decode(int64_t first_row, int64_t rows, void* out, void* stream) override {
    cuda::dequantize_nf4({.codes = device_codes_.data(),
                          .scales = {.absmax = device_absmax_.data()},
                          .type = FourBitType::kNf4,
                          .block_size = kBlock,
                          .begin = first_row * cols_,
                          .count = rows * cols_,
                          .out = out,
                          .out_kind = FloatKind::kF16,
                          .stream = stream});
  }
  float value(int64_t i) const {
    return f16_to_float(
        float_to_f16(nf4_level(four_bit_at(codes_.data(), i)) * absmax_[i / kBlock]));
  }

 private:
  int64_t cols_;
  std::vector<uint8_t> codes_;
  std::vector<float> absmax_;
  DeviceArray<uint8_t> device_codes_;
  DeviceArray<float> device_absmax_;
};

/// The plain product, as work of the stream that is run on the host: y = x·Wᵀ.
class ReferenceGemm : public Gemm {
 public:
  ReferenceGemm(std::vector<float> x, int64_t rows) : x_(std::move(x)), y_(rows, -1) {}

  void multiply(const WeightTile& tile, void* stream) override {
    const size_t bytes = static_cast<size_t>(tile.rows * tile.cols) * sizeof(uint16_t);
    auto& copy = copies_.emplace_back(bytes);  // pinned: the copy waits for nobody
    qlora::cuda::check(cudaMemcpyAsync(copy.get(), tile.weight, bytes, cudaMemcpyDeviceToHost,
                                       static_cast<cudaStream_t>(stream)));
    tiles_.push_back(tile);
  }
  /// After the stream has been waited for.
  std::vector<float> result() {
    for (size_t i = 0; i < tiles_.size(); ++i) {
      const WeightTile& tile = tiles_[i];
      const auto* const weight = static_cast<const uint16_t*>(copies_[i].get());
      for (int64_t n = 0; n < tile.rows; ++n) {
        float sum = 0;
        for (int64_t k = 0; k < tile.cols; ++k) {
          sum += f16_to_float(weight[n * tile.cols + k]) * x_[k];
        }
        y_[tile.first_row + n] = sum;
      }
    }
    return y_;
  }
  const std::vector<WeightTile>& tiles() const { return tiles_; }

 private:
  std::vector<float> x_, y_;
  std::vector<qlora::cuda::PinnedMemory> copies_;
  std::vector<WeightTile> tiles_;
};

class TiledMatmulTest : public testing::KernelTest {};

std::vector<float> product(const Nf4Source& w, const std::vector<float>& x, int64_t rows) {
  std::vector<float> y;
  for (int64_t n = 0; n < rows; ++n) {
    float sum = 0;
    for (size_t k = 0; k < x.size(); ++k) sum += w.value(n * std::ssize(x) + k) * x[k];
    y.push_back(sum);
  }
  return y;
}

// Streams run in a random order where nothing orders them: a missing wait shows as a wrong product.
TEST_P(TiledMatmulTest, ProductsAreRightInEveryOrderOfStreams) {
  constexpr int64_t kRows = 100, kCols = 64;
  for (uint64_t seed = 1; seed <= 12; ++seed) {
    if (auto* device = emulation::emulated_device()) device->set_seed(seed);
    Nf4Source first(kRows, kCols, 1), second(37, kCols, 2);
    auto memory = filled(2 * 16 * kCols * 2 + 256, std::byte{0xFF});  // two tiles of 16 rows
    const qlora::cuda::Stream stream;
    TiledMatmul matmul({memory.data(), memory.values().size()});
    const auto x = testing::normal_values(kCols, 3, 1);
    ReferenceGemm one(x, kRows), two(x, 37);
    matmul.wait_for(nullptr);
    matmul.run(first, one, kRows, kCols, FloatKind::kF16, stream.get());
    matmul.run(second, two, 37, kCols, FloatKind::kF16, stream.get());
    stream.synchronize();
    EXPECT_EQ(one.result(), product(first, x, kRows)) << seed;
    EXPECT_EQ(two.result(), product(second, x, 37)) << seed;
    ASSERT_EQ(one.tiles().size(), 7u);
    EXPECT_TRUE(one.tiles()[0].is_first);
    EXPECT_FALSE(one.tiles()[1].is_first);
    EXPECT_TRUE(two.tiles()[0].is_first);
  }
  if (auto* device = emulation::emulated_device()) device->set_seed(1);
}

/// Position of the n-th operation that `is` accepts, in the order in which they ran.
template <class Is>
std::vector<size_t> positions(const std::vector<Operation>& log, const Is& is) {
  std::vector<size_t> found;
  for (size_t i = 0; i < log.size(); ++i) {
    if (is(log[i])) found.push_back(i);
  }
  return found;
}

TEST_P(TiledMatmulTest, TheNextTileIsDecodedBesideTheProduct) {
  auto* const device = emulation::emulated_device();
  if (device == nullptr) GTEST_SKIP() << "the order is asserted under emulation";
  constexpr int64_t kRows = 96, kCols = 64;
  bool ran_ahead = false;
  for (uint64_t seed = 1; seed <= 12; ++seed) {
    device->set_seed(seed);
    Nf4Source source(kRows, kCols, 1);
    auto memory = filled(2 * 16 * kCols * 2 + 256, std::byte{0xFF});
    const qlora::cuda::Stream stream;
    TiledMatmul matmul({memory.data(), memory.values().size()});
    ReferenceGemm gemm(testing::normal_values(kCols, 3, 1), kRows);
    device->clear_operations();
    matmul.run(source, gemm, kRows, kCols, FloatKind::kF16, stream.get());
    stream.synchronize();
    const auto log = device->operations();
    const auto decodes = positions(log, [](const Operation& o) {
      return o.kind == OperationKind::kKernel && o.name.find("dequantize_nf4") != std::string::npos;
    });
    const auto products =
        positions(log, [](const Operation& o) { return o.kind == OperationKind::kCopy; });
    ASSERT_EQ(decodes.size(), 6u);
    ASSERT_EQ(products.size(), 6u);
    EXPECT_NE(log[decodes[0]].stream, log[products[0]].stream);
    for (size_t i = 0; i < 6; ++i) {
      EXPECT_LT(decodes[i], products[i]);
      if (i >= 2) {
        EXPECT_LT(products[i - 2], decodes[i]);  // the buffer is free
      }
      if (i >= 1 && decodes[i] < products[i - 1]) ran_ahead = true;
    }
  }
  device->set_seed(1);
  EXPECT_TRUE(ran_ahead) << "no tile was decoded before the product of the one before it";
}

TEST_P(TiledMatmulTest, TilesAreEvenAndFit) {
  EXPECT_EQ(cuda::tile_rows(100, 64, FloatKind::kF16, 16 * 128), 16);
  EXPECT_EQ(cuda::tile_rows(100, 64, FloatKind::kF16, 100 * 128), 100);
  EXPECT_EQ(cuda::tile_rows(4096, 4096, FloatKind::kBF16, 3000 * 8192), 2048);
  EXPECT_EQ(cuda::tile_rows(11008, 4096, FloatKind::kF32, 4000 * 16384), 3680);
  EXPECT_EQ(cuda::tile_rows(7, 64, FloatKind::kF16, 7 * 128), 7);
  EXPECT_ERROR(ValueError, cuda::tile_rows(100, 64, FloatKind::kF16, 15 * 128), "at least 16");
  std::byte few[511];
  EXPECT_ERROR(ValueError, TiledMatmul matmul(few), "511 bytes");
}

INSTANTIATE_TEST_SUITE_P(, TiledMatmulTest,
                         ::testing::Values(testing::KernelCase{BackEnd::kCuda, FloatKind::kF16}),
                         testing::case_name);

}  // namespace
}  // namespace qlora::quant
