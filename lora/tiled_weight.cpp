#include "lora/tiled_weight.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/mm.h>

#include <map>
#include <mutex>
#include <variant>

#include "core/device.h"
#include "core/error.h"
#include "quant/checks.h"
#include "quant/queue_rows.h"

namespace qlora::lora {
namespace {

using torch::Tensor;

/// The rows of a weight as its tiles.
class CodeRows final : public quant::TileSource {
 public:
  CodeRows(const FrozenWeight& weight, FloatKind kind) : weight_(weight), kind_(kind) {}

  void decode(int64_t first_row, int64_t rows, void* out, void* stream) override {
    const auto queue = [&](const auto& codes) {
      quant::queue_rows(codes, first_row, rows, out, kind_, stream);
    };
    if (weight_.holds<quant::Nf4Tensor>()) return queue(weight_.as<quant::Nf4Tensor>());
    if (weight_.holds<quant::PackedAffine>()) return queue(weight_.as<quant::PackedAffine>());
    queue(weight_.as<quant::Fp8Tensor>());
  }

 private:
  const FrozenWeight& weight_;
  FloatKind kind_;
};

/// A tile as libtorch sees it: memory that is somebody else's.  [rows, K]
Tensor as_tensor(const quant::WeightTile& tile, const Tensor& like) {
  return at::for_blob(const_cast<void*>(tile.weight), {tile.rows, tile.cols})
      .options(like.options())
      .target_device(like.device())
      .make_tensor();
}

/// Columns [first_row, first_row + rows) of y.
class ForwardGemm final : public quant::Gemm {
 public:
  ForwardGemm(const Tensor& y, const Tensor& x, Sum sum) : y_(y), x_(x), sum_(sum) {}

  void multiply(const quant::WeightTile& tile, void*) override {
    Tensor columns = y_.narrow(1, tile.first_row, tile.rows);
    const Tensor w = as_tensor(tile, x_).t();
    if (sum_ == Sum::kBegins) {
      at::mm_out(columns, x_, w);
    } else {
      columns.addmm_(x_, w);
    }
  }

 private:
  const Tensor &y_, &x_;
  Sum sum_;
};

/// The tile's share of dx: that of some columns of dy.
class BackwardGemm final : public quant::Gemm {
 public:
  BackwardGemm(const Tensor& dx, const Tensor& dy, Sum sum) : dx_(dx), dy_(dy), sum_(sum) {}

  void multiply(const quant::WeightTile& tile, void*) override {
    const Tensor columns = dy_.narrow(1, tile.first_row, tile.rows);
    const Tensor w = as_tensor(tile, dy_);
    if (tile.is_first && sum_ == Sum::kBegins) {
      Tensor dx = dx_;
      at::mm_out(dx, columns, w);
    } else {
      dx_.addmm_(columns, w);
    }
  }

 private:
  const Tensor &dx_, &dy_;
  Sum sum_;
};

}  // namespace

TiledWeight::TiledWeight(torch::Device device, int64_t memory_bytes)
    : device_(device),
      memory_(at::empty({memory_bytes}, torch::TensorOptions(device).dtype(torch::kUInt8))) {
  tiles_.reset(quant::cuda::make_tiled_products(
      {static_cast<std::byte*>(memory_.mutable_data_ptr()), static_cast<size_t>(memory_bytes)}));
  // The allocator may have taken this memory from work that is still queued.
  tiles_->wait_for(quant::stream_of(memory_));
}

void TiledWeight::product(const Tensor& y, const Tensor& x, const FrozenWeight& weight, Sum sum) {
  ForwardGemm gemm(y, x, sum);
  run(weight, gemm, x.scalar_type());
}

void TiledWeight::gradient(const Tensor& dx, const Tensor& dy, const FrozenWeight& weight,
                           Sum sum) {
  BackwardGemm gemm(dx, dy, sum);
  run(weight, gemm, dy.scalar_type());
}

void TiledWeight::run(const FrozenWeight& weight, quant::Gemm& gemm, torch::ScalarType dtype) {
  const at::NoGradGuard no_graph;
  CodeRows rows(weight, float_kind(dtype));
  tiles_->run(rows, gemm, weight.rows(), weight.cols(), float_kind(dtype),
              quant::stream_of(memory_));
}

TiledWeight& device_tiles(torch::Device device) {
  static std::mutex mutex;
  // Never destroyed: at the end of the process the driver has gone before.
  static auto* const all = new std::map<int, TiledWeight>();
  const std::lock_guard lock(mutex);
  const auto found = all->find(device.index());
  if (found != all->end()) return found->second;
  return all->try_emplace(device.index(), device, quant::kTileMemoryBytes).first->second;
}

}  // namespace qlora::lora
