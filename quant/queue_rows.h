#pragma once

#include <cstdint>

#include "core/float_kind.h"
#include "quant/fp8.h"
#include "quant/nf4.h"
#include "quant/packed_affine.h"

namespace qlora::quant {

// Some rows of a weight on a CUDA device, decoded by a stream of the caller's: what TiledProducts
// asks for. Where libtorch's current stream is meant, the …_into functions are.

/// Queues the decoding of rows [first_row, first_row + rows) into out [rows, K] of kind.
///   out       device memory
///   stream    cudaStream_t
void queue_rows(const Nf4Tensor& t, int64_t first_row, int64_t rows, void* out, FloatKind kind,
                void* stream);
void queue_rows(const PackedAffine& t, int64_t first_row, int64_t rows, void* out, FloatKind kind,
                void* stream);
void queue_rows(const Fp8Tensor& t, int64_t first_row, int64_t rows, void* out, FloatKind kind,
                void* stream);

}  // namespace qlora::quant
