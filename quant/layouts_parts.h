#pragma once

#include <torch/types.h>

#include <cstdint>
#include <string>
#include <utility>

#include "core/error.h"
#include "quant/affine.h"
#include "quant/nf4.h"

// What the layouts of checkpoints share: the parts of a linear, found and checked by name, and the
// checks and parts of an AffineTensor that is written.
namespace qlora::quant::layouts {

template <class... Args>
[[noreturn]] void refuse(fmt::format_string<Args...> text, Args&&... args) {
  throw FormatError("[quant] " + fmt::format(text, std::forward<Args>(args)...));
}

/// The tensor of that name; null where it is missing or undefined.
const torch::Tensor* find_tensor(const TensorMap& tensors, const std::string& name);

/// The tensor of that name, contiguous, on the CPU, not empty, of that type and as many dimensions.
///   throws    FormatError
const torch::Tensor& tensor_at(const TensorMap& tensors, const std::string& name,
                               torch::ScalarType type, int64_t dims);

/// throws ShapeError
void check_sizes(const std::string& name, const torch::Tensor& t, c10::IntArrayRef allowed);

/// Scales of a file.
struct Scales {
  torch::Tensor values;  // f32, in memory of their own
  ScaleType type;        // that the file has them in
};

/// throws FormatError where missing, of another type, not finite, or of more than two dimensions
Scales scales_at(const TensorMap& tensors, const std::string& name);

/// Columns that share a scale: group_size, or all of them where it is -1.
///   throws    FormatError for any other group_size below 1
int64_t group_columns(int64_t cols, int64_t group_size);

/// The group of every column where groups are runs of `size` columns.  [cols] i32
torch::Tensor runs_of(int64_t cols, int64_t size);

/// The group of every column as the file says it, or runs where it does not; undefined where the
/// groups are nothing but runs.
///   throws    FormatError for a group that is not in [0, groups); ShapeError
torch::Tensor groups_at(const TensorMap& tensors, const std::string& name, int64_t cols,
                        int64_t groups, int64_t size);

/// What a tensor has to be before it is written: parts that fit, codes within their bits.
///   throws    ShapeError, ValueError, DeviceError
void check_written(const AffineTensor& t);

/// Whether all zero points are in the middle.
bool is_symmetric(const AffineTensor& t);

/// The rule that made a grid is not in any file; whether it is symmetric shows.
void set_rule(AffineTensor& t);

/// Scales as a file has them.
torch::Tensor written_scales(const torch::Tensor& scales, ScaleType type);

}  // namespace qlora::quant::layouts
