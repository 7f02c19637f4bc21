#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "core/cuda/handles.h"
#include "core/float_kind.h"

namespace qlora::quant::cuda {

/// Rows [first_row, first_row + rows) of a weight, decoded.
struct WeightTile {
  const void* weight;  // [rows, cols] of kind, row-major, device memory
  int64_t first_row;
  int64_t rows;
  int64_t cols;
  FloatKind kind;
  bool is_first;  // of its matrix: a sum over tiles begins
};

/// What is done with a tile: cuBLASLt through libtorch on a device, a plain loop in tests. Forward
/// it fills columns of y = x·Wᵀ, backward it adds to dx = dy·W.
class Gemm {
 public:
  virtual ~Gemm() = default;
  /// Queues the work on `stream`; the tile is valid for it and no longer.
  virtual void multiply(const WeightTile& tile, cudaStream_t stream) = 0;
};

/// Where tiles come from: one of the folder's dequantize functions.
class TileSource {
 public:
  virtual ~TileSource() = default;
  /// Queues on `stream` the decoding of rows [first_row, first_row + rows) into out.
  virtual void decode(int64_t first_row, int64_t rows, void* out, cudaStream_t stream) = 0;
};

/// Rows of a tile: as many as fit, shared evenly among the tiles, a multiple of 16 where there is
/// more than one (tensor cores take sixteen at once).
///   throws    ValueError where not even 16 rows (or the whole matrix) fit
int64_t tile_rows(int64_t rows, int64_t cols, FloatKind kind, size_t tile_bytes);

/// Products with a weight that is decoded tile by tile into two buffers: while the GEMM of tile i
/// runs on the caller's stream, tile i + 1 is decoded on a side stream.
///   Order     decode(i) waits for the GEMM that used its buffer before, two tiles ago or in an
///             earlier product; gemm(i) waits for decode(i); nothing else waits
///   Memory    two tiles, whatever the size of the weights; never a second model
class TiledMatmul {
 public:
  /// memory    of the device, aligned to 256 bytes, for both tiles; the caller's, and it has to
  ///           outlive the work that is queued here
  ///   throws    ValueError where it is under 512 bytes
  explicit TiledMatmul(std::span<std::byte> memory);

  /// From here on tiles see what was queued on `stream` before: a weight that has been loaded.
  void wait_for(cudaStream_t stream);

  /// Queues a product; nothing waits on the host.
  ///   stream    of the GEMM; its later work comes after the product
  ///   throws    ValueError as tile_rows; DeviceError
  void run(TileSource& source, Gemm& gemm, int64_t rows, int64_t cols, FloatKind kind,
           cudaStream_t stream);

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
