#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "core/cuda/handles.h"
#include "core/float_kind.h"
#include "quant/tiled_products_backend.h"

namespace qlora::quant::cuda {

/// Rows of a tile: as many as fit, shared evenly among the tiles, a multiple of 16 where there is
/// more than one (tensor cores take sixteen at once).
///   throws    ValueError where not even 16 rows (or the whole matrix) fit
int64_t tile_rows(int64_t rows, int64_t cols, FloatKind kind, size_t tile_bytes);

/// TiledProducts on a device: two buffers, a side stream and the events between it and the
/// caller's.
class TiledMatmul final : public TiledProducts {
 public:
  explicit TiledMatmul(std::span<std::byte> memory);
  void wait_for(void* stream) override;
  void run(TileSource& source, Gemm& gemm, int64_t rows, int64_t cols, FloatKind kind,
           void* stream) override;

 private:
  struct Buffer {
    std::byte* memory;
    qlora::cuda::Event decoded;
    qlora::cuda::Event consumed;
    bool in_use = false;  // `consumed` has been recorded
  };

  size_t tile_bytes_;
  std::array<Buffer, 2> buffers_;
  size_t next_ = 0;  // buffer of the next tile
  qlora::cuda::Event loaded_;
  qlora::cuda::Stream side_;
};

}  // namespace qlora::quant::cuda
