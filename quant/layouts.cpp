#include "quant/layouts.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <string>

#include "core/error.h"
#include "core/parallel.h"
#include "quant/affine_math.h"
#include "quant/fp8_math.h"
#include "quant/packed_layout_math.h"

namespace qlora::quant {
namespace {

using torch::Tensor;

constexpr int64_t kTileColumns =
    64;  // of qweight that one pass takes: a cache line of each word row

template <class... Args>
[[noreturn]] void refuse(fmt::format_string<Args...> text, Args&&... args) {
  throw FormatError("[quant] " + fmt::format(text, std::forward<Args>(args)...));
}

const uint32_t* words_of(const Tensor& t) {
  return reinterpret_cast<const uint32_t*>(t.const_data_ptr<int32_t>());
}

uint32_t* mutable_words_of(const Tensor& t) {
  return reinterpret_cast<uint32_t*>(t.mutable_data_ptr<int32_t>());
}

/// words [words, N], a stream down each column -> codes [N, count].
Tensor unpack_columns(const Tensor& words, int64_t count, int64_t bits) {
  const int64_t n = words.size(1);
  Tensor codes = torch::empty({n, count}, torch::kUInt8);
  uint8_t* out = codes.mutable_data_ptr<uint8_t>();
  const uint32_t* in = words_of(words);
  parallel_for((n + kTileColumns - 1) / kTileColumns, 1, [&](int64_t first, int64_t last) {
    for (int64_t tile = first; tile < last; ++tile) {
      const int64_t end = std::min(n, (tile + 1) * kTileColumns);
      for (int64_t k = 0; k < count; ++k) {
        for (int64_t c = tile * kTileColumns; c < end; ++c) {
          out[c * count + k] = static_cast<uint8_t>(read_stream(in + c, n, k, bits));
        }
      }
    }
  });
  return codes;
}

/// Reverse of unpack_columns.
Tensor pack_columns(const Tensor& codes, int64_t bits) {
  const int64_t n = codes.size(0), count = codes.size(1);
  Tensor words = torch::zeros({stream_words(count, bits), n}, torch::kInt32);
  uint32_t* out = mutable_words_of(words);
  const uint8_t* in = codes.const_data_ptr<uint8_t>();
  parallel_for((n + kTileColumns - 1) / kTileColumns, 1, [&](int64_t first, int64_t last) {
    for (int64_t tile = first; tile < last; ++tile) {
      const int64_t end = std::min(n, (tile + 1) * kTileColumns);
      for (int64_t k = 0; k < count; ++k) {
        for (int64_t c = tile * kTileColumns; c < end; ++c) {
          write_stream(out + c, n, k, bits, in[c * count + k]);
        }
      }
    }
  });
  return words;
}

/// words [rows, words], a stream along each row -> codes [rows, count].
Tensor unpack_rows(const Tensor& words, int64_t count, int64_t bits) {
  const int64_t rows = words.size(0), stride = words.size(1);
  Tensor codes = torch::empty({rows, count}, torch::kUInt8);
  uint8_t* out = codes.mutable_data_ptr<uint8_t>();
  const uint32_t* in = words_of(words);
  parallel_for(rows, 16, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      for (int64_t k = 0; k < count; ++k) {
        out[r * count + k] = static_cast<uint8_t>(read_stream(in + r * stride, 1, k, bits));
      }
    }
  });
  return codes;
}

/// Reverse of unpack_rows.
Tensor pack_rows(const Tensor& codes, int64_t bits) {
  const int64_t rows = codes.size(0), count = codes.size(1), stride = stream_words(count, bits);
  Tensor words = torch::zeros({rows, stride}, torch::kInt32);
  uint32_t* out = mutable_words_of(words);
  const uint8_t* in = codes.const_data_ptr<uint8_t>();
  parallel_for(rows, 16, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      for (int64_t k = 0; k < count; ++k) {
        write_stream(out + r * stride, 1, k, bits, in[r * count + k]);
      }
    }
  });
  return words;
}

/// words [rows, N / 8] of AWQ's nibbles -> codes [rows, N].
Tensor unpack_awq(const Tensor& words) {
  const int64_t count = words.numel();
  Tensor codes = torch::empty({words.size(0), words.size(1) * 8}, torch::kUInt8);
  uint8_t* out = codes.mutable_data_ptr<uint8_t>();
  const uint32_t* in = words_of(words);
  for (int64_t w = 0; w < count; ++w) {
    for (int c = 0; c < 8; ++c) out[8 * w + c] = (in[w] >> (4 * awq_nibble(c))) & 15u;
  }
  return codes;
}

Tensor pack_awq(const Tensor& codes) {
  Tensor words = torch::zeros({codes.size(0), codes.size(1) / 8}, torch::kInt32);
  uint32_t* out = mutable_words_of(words);
  const uint8_t* in = codes.const_data_ptr<uint8_t>();
  for (int64_t w = 0; w < words.numel(); ++w) {
    for (int n = 0; n < 8; ++n) out[w] |= uint32_t{in[8 * w + awq_column(n)]} << (4 * n);
  }
  return words;
}

/// Adds or subtracts what v1 takes off every zero point, whole words at a time as GPTQModel does. A
/// carry leaves a word only where numbers straddle words.
void shift_v1_zeros(const Tensor& words, int64_t bits, bool add) {
  uint32_t* out = mutable_words_of(words);
  const int64_t stride = words.size(1);
  uint64_t carry = 0;
  for (int64_t i = 0; i < words.numel(); ++i) {
    const int64_t word = i % stride;
    if (32 % bits == 0 || word % bits == 0) carry = 0;  // 32 numbers fill `bits` words
    const uint64_t change = stream_of_ones(word, bits) + carry;
    carry = add ? (out[i] + change) >> 32 : uint64_t{out[i] < change};
    out[i] = static_cast<uint32_t>(add ? out[i] + change : out[i] - change);
  }
}

torch::ScalarType scalar_of(ScaleType type) {
  switch (type) {
    case ScaleType::kF16:
      return torch::kFloat16;
    case ScaleType::kBF16:
      return torch::kBFloat16;
    case ScaleType::kF32:
      break;
  }
  return torch::kFloat32;
}

/// A tensor of the checkpoint, contiguous, with as many dimensions as said.
const Tensor& tensor_at(const TensorMap& tensors, const std::string& name, torch::ScalarType type,
                        int64_t dims) {
  const auto found = tensors.find(name);
  if (found == tensors.end() || !found->second.defined()) refuse("tensor {} is missing", name);
  const Tensor& t = found->second;
  if (t.scalar_type() != type || t.dim() != dims || !t.is_contiguous() || !t.is_cpu() ||
      t.numel() == 0) {
    refuse("{} is {} {}, allowed {} with {} dimensions, contiguous and not empty", name,
           c10::toString(t.scalar_type()), c10::str(t.sizes()), c10::toString(type), dims);
  }
  return t;
}

void check_sizes(const char* name, const Tensor& t, c10::IntArrayRef allowed) {
  QLORA_CHECK(t.sizes() == allowed, ShapeError, "[quant] {} has shape {}, allowed {}", name,
              c10::str(t.sizes()), c10::str(allowed));
}

/// Scales of a file as f32, and the type that they had.
Tensor scales_at(const TensorMap& tensors, const std::string& name, ScaleType& type) {
  const auto found = tensors.find(name);
  if (found == tensors.end() || !found->second.defined()) refuse("tensor {} is missing", name);
  const Tensor& t = found->second;
  switch (t.scalar_type()) {
    case torch::kFloat16:
      type = ScaleType::kF16;
      break;
    case torch::kBFloat16:
      type = ScaleType::kBF16;
      break;
    case torch::kFloat32:
      type = ScaleType::kF32;
      break;
    default:
      refuse("{} is {}, allowed F16, BF16 and F32", name, c10::toString(t.scalar_type()));
  }
  if (t.numel() == 0 || t.dim() > 2) refuse("{} has shape {}", name, c10::str(t.sizes()));
  Tensor scales = t.to(torch::kFloat32, /*non_blocking=*/false, /*copy=*/true).contiguous();
  if (!scales.isfinite().all().item<bool>()) refuse("{} holds NaN or infinity", name);
  return scales;
}

int64_t group_columns(int64_t cols, int64_t group_size) {
  if (group_size < -1 || group_size == 0) {
    refuse("group_size is {}, allowed at least 1, or -1 for the whole row", group_size);
  }
  return group_size == -1 ? cols : group_size;
}

/// Runs of columns that share a group: cols divides into them, and group k / size is column k's.
bool are_runs(const Tensor& group_of, int64_t size) {
  const int32_t* g = group_of.const_data_ptr<int32_t>();
  if (group_of.numel() % size != 0) return false;
  for (int64_t k = 0; k < group_of.numel(); ++k) {
    if (g[k] != k / size) return false;
  }
  return true;
}

/// g_idx of a file, or runs where there is none; undefined where it says nothing but runs.
Tensor groups_at(const TensorMap& tensors, const std::string& name, int64_t cols, int64_t groups,
                 int64_t size) {
  const auto found = tensors.find(name);
  Tensor group_of;
  if (found == tensors.end() || !found->second.defined()) {
    group_of = torch::arange(cols, torch::kInt32).floor_divide(size).to(torch::kInt32);
  } else {
    group_of = tensor_at(tensors, name, torch::kInt32, 1).clone();
    check_sizes(name.c_str(), group_of, {cols});
  }
  const auto least = group_of.min().item<int32_t>(), most = group_of.max().item<int32_t>();
  if (least < 0 || most >= groups) {
    refuse("{} holds groups {} to {}, allowed 0 to {}", name, least, most, groups - 1);
  }
  return are_runs(group_of, size) && cols / size == groups ? Tensor() : group_of;
}

void check_bits(int64_t bits) {
  if (bits != 2 && bits != 3 && bits != 4 && bits != 8) {
    refuse("bits is {}, allowed 2, 3, 4, 8", bits);
  }
}

/// What an AffineTensor has to be before it is written.
void check_affine(const AffineTensor& t) {
  QLORA_CHECK(t.codes.defined() && t.codes.dim() == 2 && t.codes.numel() > 0 &&
                  t.codes.scalar_type() == torch::kUInt8 && t.codes.is_cpu(),
              ShapeError, "[quant] codes have shape {}, allowed u8 [N, K] on the CPU",
              t.codes.defined() ? c10::str(t.codes.sizes()) : "none");
  QLORA_CHECK(t.scales.defined() && t.scales.dim() == 2 && t.scales.size(0) == t.rows() &&
                  t.scales.size(1) > 0 && t.scales.scalar_type() == torch::kFloat32 &&
                  t.zeros.defined() && t.zeros.scalar_type() == torch::kUInt8 &&
                  t.zeros.sizes() == t.scales.sizes(),
              ShapeError, "[quant] scales and zeros have shapes {} and {}, allowed [{}, groups]",
              t.scales.defined() ? c10::str(t.scales.sizes()) : "none",
              t.zeros.defined() ? c10::str(t.zeros.sizes()) : "none", t.rows());
  QLORA_CHECK(t.group_of.defined()
                  ? t.group_of.numel() == t.cols() && t.group_of.scalar_type() == torch::kInt32
                  : t.cols() % t.groups() == 0,
              ShapeError, "[quant] {} columns do not divide into {} groups", t.cols(), t.groups());
  const int64_t bits = t.options.bits;
  QLORA_CHECK(bits == 2 || bits == 3 || bits == 4 || bits == 8, ValueError,
              "[quant] bits is {}, allowed 2, 3, 4, 8", bits);
  const auto most = std::max(t.codes.max().item<uint8_t>(), t.zeros.max().item<uint8_t>());
  QLORA_CHECK(most <= affine_max_code(bits), ValueError,
              "[quant] a code or zero point is {}, allowed at most {} at {} bits", most,
              affine_max_code(bits), bits);
}

bool is_symmetric(const AffineTensor& t) {
  return (t.zeros == affine_max_code(t.options.bits) / 2 + 1).all().item<bool>();
}

/// The rule that made a grid is not in any file; whether its zero points are all in the middle is.
void set_rule(AffineTensor& t) {
  t.options.rule = is_symmetric(t) ? GridRule::kSymmetric : GridRule::kAsymmetric;
}

Tensor written_scales(const AffineTensor& t, bool transposed) {
  const Tensor scales = transposed ? t.scales.t() : t.scales;
  return scales.contiguous().to(scalar_of(t.options.scale_type));
}

Tensor group_index(const AffineTensor& t) {
  if (t.group_of.defined()) return t.group_of.contiguous();
  return torch::arange(t.cols(), torch::kInt32)
      .floor_divide(t.cols() / t.groups())
      .to(torch::kInt32);
}

}  // namespace

TensorMap to_gptq(const AffineTensor& t, GptqFormat format) {
  const at::NoGradGuard no_grad;
  check_affine(t);
  QLORA_CHECK(t.rows() % 32 == 0 && t.cols() % 32 == 0, ShapeError,
              "[quant] a weight [{}, {}] does not fit the GPTQ layout, allowed multiples of 32; "
              "leave this matrix out or write compressed-tensors",
              t.rows(), t.cols());
  const int64_t bits = t.options.bits;
  const Tensor zeros = t.zeros.t().contiguous();  // [groups, N]
  Tensor packed_zeros = pack_rows(zeros, bits);
  if (format == GptqFormat::kV1) {
    QLORA_CHECK(zeros.min().item<uint8_t>() > 0, ValueError,
                "[quant] a zero point is 0, which the GPTQ v1 layout cannot hold (its readers "
                "disagree); quantize with least_zero 1, or write gptq_v2");
    shift_v1_zeros(packed_zeros, bits, /*add=*/false);
  }
  return {{"qweight", pack_columns(t.codes.contiguous(), bits)},
          {"qzeros", packed_zeros},
          {"scales", written_scales(t, /*transposed=*/true)},
          {"g_idx", group_index(t)}};
}

AffineTensor from_gptq(const TensorMap& tensors, GptqFormat format, int64_t bits,
                       int64_t group_size) {
  const at::NoGradGuard no_grad;
  check_bits(bits);
  const Tensor& words = tensor_at(tensors, "qweight", torch::kInt32, 2);
  const int64_t n = words.size(1), cols = words.size(0) * 32 / bits;
  if (words.size(0) * 32 % bits != 0) {
    refuse("qweight has {} rows of words, allowed a multiple of {}", words.size(0), bits);
  }
  AffineTensor t;
  t.options.bits = bits;
  t.options.group_size = group_size;
  const int64_t size = group_columns(cols, group_size), groups = (cols + size - 1) / size;
  Tensor scales = scales_at(tensors, "scales", t.options.scale_type);
  check_sizes("scales", scales, {groups, n});
  Tensor zeros = tensor_at(tensors, "qzeros", torch::kInt32, 2).clone();
  check_sizes("qzeros", zeros, {groups, stream_words(n, bits)});
  if (format == GptqFormat::kV1) shift_v1_zeros(zeros, bits, /*add=*/true);
  t.scales = scales.t().contiguous();
  t.zeros = unpack_rows(zeros, n, bits).t().contiguous();
  t.group_of = groups_at(tensors, "g_idx", cols, groups, size);
  t.codes = unpack_columns(words, cols, bits);
  set_rule(t);
  return t;
}

TensorMap to_awq_gemm(const AffineTensor& t) {
  const at::NoGradGuard no_grad;
  check_affine(t);
  QLORA_CHECK(t.options.bits == 4, ValueError, "[quant] bits is {}, the AWQ layout holds 4",
              t.options.bits);
  QLORA_CHECK(t.rows() % 8 == 0 && !t.group_of.defined(), ShapeError,
              "[quant] a weight [{}, {}]{} does not fit the AWQ layout, allowed N a multiple of 8 "
              "and groups that are runs of columns; leave this matrix out or write GPTQ",
              t.rows(), t.cols(), t.group_of.defined() ? " with reordered columns" : "");
  return {{"qweight", pack_awq(t.codes.t().contiguous())},
          {"qzeros", pack_awq(t.zeros.t().contiguous())},
          {"scales", written_scales(t, /*transposed=*/true)}};
}

AffineTensor from_awq_gemm(const TensorMap& tensors, int64_t group_size) {
  const at::NoGradGuard no_grad;
  const Tensor& words = tensor_at(tensors, "qweight", torch::kInt32, 2);
  const int64_t cols = words.size(0), n = words.size(1) * 8;
  const int64_t size = group_columns(cols, group_size);
  if (cols % size != 0) refuse("group_size {} does not divide the {} columns", size, cols);
  AffineTensor t;
  t.options.bits = 4;
  t.options.group_size = group_size;
  Tensor scales = scales_at(tensors, "scales", t.options.scale_type);
  check_sizes("scales", scales, {cols / size, n});
  const Tensor& zeros = tensor_at(tensors, "qzeros", torch::kInt32, 2);
  check_sizes("qzeros", zeros, {cols / size, words.size(1)});
  t.scales = scales.t().contiguous();
  t.zeros = unpack_awq(zeros).t().contiguous();
  t.codes = unpack_awq(words).t().contiguous();
  set_rule(t);
  return t;
}

TensorMap to_compressed_tensors(const AffineTensor& t, CompressedFormat format) {
  const at::NoGradGuard no_grad;
  check_affine(t);
  const int64_t bits = t.options.bits;
  TensorMap tensors = {{"weight_scale", written_scales(t, /*transposed=*/false)}};
  const bool symmetric = is_symmetric(t);
  if (t.group_of.defined()) tensors["weight_g_idx"] = t.group_of.contiguous();
  if (format == CompressedFormat::kIntQuantized) {
    QLORA_CHECK(bits == 8, ValueError, "[quant] bits is {}, the int-quantized layout holds 8",
                bits);
    const auto as_signed = [](const Tensor& codes) {  // code - 128, of the same bits but one
      return codes.bitwise_xor(128).contiguous().view(torch::kInt8);
    };
    tensors["weight"] = as_signed(t.codes);
    if (!symmetric) tensors["weight_zero_point"] = as_signed(t.zeros);
    return tensors;
  }
  tensors["weight_packed"] = pack_rows(t.codes.contiguous(), bits);
  tensors["weight_shape"] = torch::tensor({t.rows(), t.cols()}, torch::kInt64);
  if (!symmetric) tensors["weight_zero_point"] = pack_columns(t.zeros.t().contiguous(), bits);
  return tensors;
}

namespace {

/// Scales [N, groups]; one for the whole matrix is spread over the rows.
Tensor row_scales(Tensor scales, int64_t rows, const char* name) {
  if (scales.numel() == 1) return scales.view({1, 1}).expand({rows, 1}).contiguous();
  if (scales.dim() == 1) scales = scales.view({-1, 1});
  QLORA_CHECK(scales.size(0) == rows, ShapeError, "[quant] {} has shape {}, allowed [{}, groups]",
              name, c10::str(scales.sizes()), rows);
  return scales;
}

/// Signed numbers -> codes, by their own number of bits.
Tensor from_signed(const Tensor& t, int64_t bits) {
  const Tensor codes = t.to(torch::kInt32) + (int64_t{1} << (bits - 1));
  const auto least = codes.min().item<int32_t>(), most = codes.max().item<int32_t>();
  if (least < 0 || most > affine_max_code(bits)) {
    refuse("a signed number or zero point leaves {} bits", bits);
  }
  return codes.to(torch::kUInt8).contiguous();
}

/// Zero points [N, groups] of compressed-tensors: none, packed down the columns, or plain i8.
Tensor compressed_zeros(const TensorMap& tensors, c10::IntArrayRef sizes, int64_t bits) {
  const auto found = tensors.find("weight_zero_point");
  if (found == tensors.end() || !found->second.defined()) {
    return torch::full(sizes, affine_max_code(bits) / 2 + 1, torch::kUInt8);
  }
  if (found->second.scalar_type() == torch::kInt32) {
    const Tensor& words = tensor_at(tensors, "weight_zero_point", torch::kInt32, 2);
    check_sizes("weight_zero_point", words, {stream_words(sizes[0], bits), sizes[1]});
    // The stream runs down N for every group: unpack_columns gives [groups, N].
    return unpack_columns(words, sizes[0], bits).t().contiguous();
  }
  const Tensor& zeros = found->second;
  if (zeros.scalar_type() != torch::kInt8 || !zeros.is_contiguous()) {
    refuse("weight_zero_point is {}, allowed I32 and I8", c10::toString(zeros.scalar_type()));
  }
  if (zeros.numel() == 1) {
    return from_signed(zeros.view({1, 1}).expand(sizes).contiguous(), bits);
  }
  QLORA_CHECK(zeros.numel() == sizes[0] * sizes[1], ShapeError,
              "[quant] weight_zero_point has shape {}, allowed {}", c10::str(zeros.sizes()),
              c10::str(sizes));
  return from_signed(zeros.view(sizes), bits);
}

Tensor packed_codes(const TensorMap& tensors, int64_t bits) {
  const Tensor& words = tensor_at(tensors, "weight_packed", torch::kInt32, 2);
  const Tensor& shape = tensor_at(tensors, "weight_shape", torch::kInt64, 1);
  check_sizes("weight_shape", shape, {2});
  const int64_t rows = shape[0].item<int64_t>(), cols = shape[1].item<int64_t>();
  // The words bound the columns before anything is multiplied.
  if (rows != words.size(0) || cols < 1 || cols > words.size(1) * 32 ||
      stream_words(cols, bits) != words.size(1)) {
    refuse("weight_packed has shape {}, but weight_shape says [{}, {}] at {} bits",
           c10::str(words.sizes()), rows, cols, bits);
  }
  return unpack_rows(words, cols, bits);
}

}  // namespace

AffineTensor from_compressed_tensors(const TensorMap& tensors, CompressedFormat format,
                                     int64_t bits) {
  const at::NoGradGuard no_grad;
  check_bits(bits);
  AffineTensor t;
  t.options.bits = bits;
  if (format == CompressedFormat::kIntQuantized) {
    if (bits != 8) refuse("bits is {}, the int-quantized layout holds 8", bits);
    t.codes = from_signed(tensor_at(tensors, "weight", torch::kInt8, 2), 8);
  } else {
    t.codes = packed_codes(tensors, bits);
  }
  t.scales = row_scales(scales_at(tensors, "weight_scale", t.options.scale_type), t.rows(),
                        "weight_scale");
  const int64_t groups = t.groups(), size = (t.cols() + groups - 1) / groups;
  if (groups > t.cols() || (size * groups != t.cols() && !tensors.contains("weight_g_idx"))) {
    refuse("weight_scale has {} groups, which do not divide the {} columns", groups, t.cols());
  }
  t.options.group_size = groups == 1 ? -1 : size;
  t.zeros = compressed_zeros(tensors, t.scales.sizes(), bits);
  t.group_of = groups_at(tensors, "weight_g_idx", t.cols(), groups, size);
  set_rule(t);
  return t;
}

TensorMap to_float_quantized(const Fp8Tensor& t) {
  const at::NoGradGuard no_grad;
  QLORA_CHECK(t.codes.defined() && t.codes.dim() == 2 && t.codes.numel() > 0 &&
                  t.codes.scalar_type() == torch::kUInt8 && t.scales.defined() &&
                  t.scales.scalar_type() == torch::kFloat32 &&
                  (t.scales.numel() == 1 || t.scales.numel() == t.rows()),
              ShapeError,
              "[quant] an FP8 weight needs codes u8 [N, K] and scales f32 [N, 1] or [1]");
  const auto type = scalar_of(t.scale_type);
  TensorMap tensors = {{"weight", t.codes.contiguous().view(torch::kFloat8_e4m3fn)},
                       {"weight_scale", t.scales.contiguous().to(type)}};
  if (t.input_scale.defined()) tensors["input_scale"] = t.input_scale.contiguous().to(type);
  return tensors;
}

Fp8Tensor from_float_quantized(const TensorMap& tensors) {
  const at::NoGradGuard no_grad;
  const Tensor& weight = tensor_at(tensors, "weight", torch::kFloat8_e4m3fn, 2);
  Fp8Tensor t;
  t.codes = weight.view(torch::kUInt8).clone();
  if ((t.codes.bitwise_and(127) == 127).any().item<bool>()) refuse("weight holds NaN");
  Tensor scales = scales_at(tensors, "weight_scale", t.scale_type);
  QLORA_CHECK(scales.numel() == 1 || (scales.numel() == t.rows() && scales.size(0) == t.rows()),
              ShapeError, "[quant] weight_scale has shape {}, allowed [1] and [{}, 1]",
              c10::str(scales.sizes()), t.rows());
  const bool whole = scales.numel() == 1 && (scales.dim() < 2 || t.rows() > 1);
  t.scales = whole ? scales.view({1}) : scales.view({-1, 1});
  if (tensors.contains("input_scale")) {
    ScaleType type;
    t.input_scale = scales_at(tensors, "input_scale", type);
    if (t.input_scale.numel() != 1 || !(t.input_scale.item<float>() > 0)) {
      refuse("input_scale has shape {}, allowed one positive number",
             c10::str(t.input_scale.sizes()));
    }
    t.input_scale = t.input_scale.view({1});
  }
  return t;
}

AffineTensor from_llm_int8(const TensorMap& tensors) {
  const at::NoGradGuard no_grad;
  AffineTensor t;
  t.options = {
      .bits = 8, .group_size = -1, .rule = GridRule::kSymmetric, .scale_type = ScaleType::kF32};
  t.codes = from_signed(tensor_at(tensors, "weight", torch::kInt8, 2), 8);
  ScaleType type;
  const Tensor absmax = scales_at(tensors, "SCB", type);
  QLORA_CHECK(absmax.numel() == t.rows(), ShapeError, "[quant] SCB has shape {}, allowed [{}]",
              c10::str(absmax.sizes()), t.rows());
  t.scales = absmax.view({-1, 1}).div(127.0);
  t.zeros = torch::full({t.rows(), 1}, 128, torch::kUInt8);
  return t;
}

}  // namespace qlora::quant
