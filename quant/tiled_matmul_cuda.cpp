#include "quant/tiled_matmul_cuda.h"

#include <algorithm>

#include "core/error.h"

namespace qlora::quant::cuda {
namespace {

constexpr int64_t kRowStep = 16;    // rows that tensor cores take at once
constexpr size_t kAlignment = 256;  // of a tile
constexpr size_t kLeastMemory = 2 * kAlignment;

size_t half_of(std::span<std::byte> memory) {
  QLORA_CHECK(memory.size() >= kLeastMemory, ValueError,
              "[quant] the memory for two tiles has {} bytes, allowed at least {}", memory.size(),
              kLeastMemory);
  return memory.size() / 2 / kAlignment * kAlignment;
}

int64_t bytes_of(FloatKind kind) {
  return kind == FloatKind::kF32 ? 4 : 2;
}

}  // namespace

int64_t tile_rows(int64_t rows, int64_t cols, FloatKind kind, size_t tile_bytes) {
  const int64_t fitting = static_cast<int64_t>(tile_bytes) / (cols * bytes_of(kind));
  if (rows <= fitting) return rows;
  const int64_t most = fitting / kRowStep * kRowStep;
  QLORA_CHECK(most > 0, ValueError,
              "[quant] a tile of {} bytes holds {} rows of {} numbers, allowed at least {}; give "
              "tiles more memory",
              tile_bytes, fitting, cols, kRowStep);
  const int64_t tiles = (rows + most - 1) / most;
  const int64_t even = (rows + tiles - 1) / tiles;
  return std::min(most, (even + kRowStep - 1) / kRowStep * kRowStep);
}

TiledMatmul::TiledMatmul(std::span<std::byte> memory) : tile_bytes_(half_of(memory)) {
  buffers_[0].memory = memory.data();
  buffers_[1].memory = memory.data() + tile_bytes_;
}

void TiledMatmul::wait_for(void* stream) {
  loaded_.record(static_cast<cudaStream_t>(stream));
  loaded_.block(side_.get());
}

void TiledMatmul::run(TileSource& source, Gemm& gemm, int64_t rows, int64_t cols, FloatKind kind,
                      void* queue) {
  const auto stream = static_cast<cudaStream_t>(queue);
  const int64_t step = tile_rows(rows, cols, kind, tile_bytes_);
  for (int64_t first = 0; first < rows; first += step) {
    Buffer& buffer = buffers_[next_];
    next_ = 1 - next_;
    const int64_t count = std::min(step, rows - first);
    if (buffer.in_use) buffer.consumed.block(side_.get());
    source.decode(first, count, buffer.memory, side_.get());
    buffer.decoded.record(side_.get());
    buffer.decoded.block(stream);
    gemm.multiply({.weight = buffer.memory,
                   .first_row = first,
                   .rows = count,
                   .cols = cols,
                   .kind = kind,
                   .is_first = first == 0},
                  stream);
    buffer.consumed.record(stream);
    buffer.in_use = true;
  }
}

TiledProducts* make_tiled_products(std::span<std::byte> memory) {
  return new TiledMatmul(memory);
}

}  // namespace qlora::quant::cuda
