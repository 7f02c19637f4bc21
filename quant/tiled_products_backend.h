#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "core/float_kind.h"

namespace qlora::quant {

/// Bytes of both tiles of a device: any linear of a 7B model goes through in at most three tiles of
/// BF16.
inline constexpr int64_t kTileMemoryBytes = int64_t{64} << 20;

/// Rows [first_row, first_row + rows) of a weight, decoded.
struct WeightTile {
  const void* weight;  // [rows, cols] of kind, row-major, device memory
  int64_t first_row;
  int64_t rows;
  int64_t cols;
  FloatKind kind;
  bool is_first;  // of its matrix: a sum over tiles begins
};

/// What is done with a tile: libtorch's product (cuBLASLt) on a device, a plain loop in tests.
/// Forward it fills columns of y = x·Wᵀ, backward it adds to dx = dy·W.
class Gemm {
 public:
  virtual ~Gemm() = default;
  /// Queues the work on `stream` (cudaStream_t); the tile is valid for it and no longer.
  virtual void multiply(const WeightTile& tile, void* stream) = 0;
};

/// Where tiles come from: one of the folder's dequantize functions.
class TileSource {
 public:
  virtual ~TileSource() = default;
  /// Queues on `stream` the decoding of rows [first_row, first_row + rows) into out.
  virtual void decode(int64_t first_row, int64_t rows, void* out, void* stream) = 0;
};

/// Products with a weight that is decoded tile by tile into two buffers: while the product of tile
/// i runs on the caller's stream, tile i + 1 is decoded on a side stream.
///   Order     decode(i) waits for the product that used its buffer before, two tiles ago or in an
///             earlier call; product(i) waits for decode(i); nothing else waits
///   Memory    two tiles, whatever the size of the weights; never a second model
class TiledProducts {
 public:
  virtual ~TiledProducts() = default;

  /// From here on tiles see what was queued on `stream` before: a weight that has been loaded, the
  /// last work on the tiles' memory.
  virtual void wait_for(void* stream) = 0;

  /// Queues a product; nothing waits on the host.
  ///   stream    of the product; its later work comes after it
  ///   throws    ValueError where not even 16 rows (or the whole matrix) fit a tile; DeviceError
  virtual void run(TileSource& source, Gemm& gemm, int64_t rows, int64_t cols, FloatKind kind,
                   void* stream) = 0;
};

namespace cuda {
/// The caller owns what is returned.
///   memory    of the device, aligned to 256 bytes, for both tiles; the caller's, and it has to
///             outlive the work that is queued here
///   throws    ValueError where it is under 512 bytes
TiledProducts* make_tiled_products(std::span<std::byte> memory);
}  // namespace cuda

}  // namespace qlora::quant
