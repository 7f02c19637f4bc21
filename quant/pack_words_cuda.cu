#include "core/cuda/check.h"
#include "core/cuda/launch.h"
#include "quant/pack_words_backend.h"
#include "quant/packed_layout_math.h"

namespace qlora::quant {
namespace {

using qlora::cuda::check;

constexpr int kThreads = 256;
constexpr int kRun = 32;  // numbers that fill `bits` whole words

/// Calls store(w, word) for the words of `count` numbers (at most 32) of a stream; number i is
/// codes[i * stride].
template <class Store>
__device__ void pack_run(const uint8_t* codes, int64_t stride, int count, int bits, bool is_awq,
                         const Store& store) {
  uint64_t rest = 0;  // bits that fill no word yet
  int filled = 0, word = 0;
  for (int i = 0; i < count; ++i) {
    const int from = is_awq ? i / 8 * 8 + awq_column(i % 8) : i;
    rest |= static_cast<uint64_t>(codes[from * stride]) << filled;
    filled += bits;
    if (filled < 32) continue;
    store(word++, static_cast<uint32_t>(rest));
    rest >>= 32;
    filled -= 32;
  }
  if (filled > 0) store(word, static_cast<uint32_t>(rest));
}

/// Streams down the columns (Down: a thread per run of 32 columns and row, neighbours in rows, so
/// that words are written side by side) or across the rows (a thread per column and run of 32 rows,
/// neighbours in columns, so that codes are read side by side).
///   Shapes    codes [rows, cols] u8; words [stream_words(cols), rows] or [cols,
///   stream_words(rows)] Launch    256 threads per block; reads 1 B a code and writes bits / 8 B
///   Numerics  bit-exact with cpu::pack_words
template <bool Down>
__global__ void pack_words_kernel(PackWordsArgs a) {
  const int64_t across = Down ? a.rows : a.cols, along = Down ? a.cols : a.rows;
  const int64_t thread = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int64_t line = thread % across, run = thread / across;
  if (run * kRun >= along) return;
  const int64_t left = along - run * kRun;
  const int count = left < kRun ? static_cast<int>(left) : kRun;
  const int bits = static_cast<int>(a.bits);
  const int64_t first = Down ? line * a.cols + run * kRun : run * kRun * a.cols + line;
  const int64_t words_of_line = stream_words(along, bits);
  pack_run(a.codes + first, Down ? 1 : a.cols, count, bits, a.order == WordOrder::kAwq,
           [&](int word, uint32_t value) {
             const int64_t at = run * bits + word;
             a.words[Down ? at * a.rows + line : line * words_of_line + at] = value;
           });
}

}  // namespace

void cuda::pack_words(const PackWordsArgs& a) {
  const bool down = a.order == WordOrder::kDown;
  const int64_t across = down ? a.rows : a.cols, along = down ? a.cols : a.rows;
  const int64_t count = across * ((along + kRun - 1) / kRun);
  if (count <= 0) return;
  const auto stream = static_cast<cudaStream_t>(a.stream);
  const unsigned blocks = qlora::cuda::grid_size(count, kThreads);
  if (down) {
    pack_words_kernel<true><<<blocks, kThreads, 0, stream>>>(a);
  } else {
    pack_words_kernel<false><<<blocks, kThreads, 0, stream>>>(a);
  }
  check(cudaGetLastError());
}

}  // namespace qlora::quant
