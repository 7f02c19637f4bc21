#include "io/quantized_module.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>

#include "core/error.h"

namespace qlora::io {
namespace {

using Shape = std::vector<int64_t>;

constexpr const char* kFourBitStates[] = {"weight.quant_state.bitsandbytes__nf4",
                                          "weight.quant_state.bitsandbytes__fp4"};

/// Words of a little-endian bit stream (K is bounded by the config: no overflow).
int64_t words(int64_t count, int64_t bits) {
  return (count * bits + 31) / 32;
}

bool is_scale_type(DType type) {
  return type == DType::kF16 || type == DType::kBF16 || type == DType::kF32;
}

class PartsReader {
 public:
  PartsReader(const SafetensorsReader& reader, QuantizedModule& module)
      : reader_(reader), module_(module) {}

  bool has(const std::string& part) const {
    return reader_.find(module_.name + "." + part) != nullptr;
  }

  const TensorView& take(const std::string& part) {
    const TensorView& view = reader_.at(module_.name + "." + part);
    module_.parts[part] = &view;
    return view;
  }

  const TensorView& take(const std::string& part, DType type, std::initializer_list<Shape> shapes) {
    const TensorView& view = take(part);
    QLORA_CHECK(view.dtype == type, FormatError, "[io] {}: tensor '{}' has type {}, {} asks for {}",
                reader_.path().string(), view.name, dtype_name(view.dtype), describe(module_.form),
                dtype_name(type));
    check_shape(view, shapes);
    return view;
  }

  const TensorView& take_scales(const std::string& part, std::initializer_list<Shape> shapes) {
    const TensorView& view = take(part);
    QLORA_CHECK(is_scale_type(view.dtype), FormatError,
                "[io] {}: tensor '{}' has type {}, {} asks for F16, BF16 or F32",
                reader_.path().string(), view.name, dtype_name(view.dtype), describe(module_.form));
    check_shape(view, shapes);
    return view;
  }

 private:
  void check_shape(const TensorView& view, std::initializer_list<Shape> shapes) const {
    if (std::find(shapes.begin(), shapes.end(), view.shape) != shapes.end()) return;
    throw ShapeError(
        fmt::format("[io] {}: tensor '{}' has shape {}, a weight [{}, {}] as {} asks "
                    "for {}",
                    reader_.path().string(), view.name, shape_text(view.shape), module_.rows,
                    module_.cols, describe(module_.form), shape_text(*shapes.begin())));
  }

  const SafetensorsReader& reader_;
  QuantizedModule& module_;
};

int64_t group_count(const QuantizedModule& m) {
  const int64_t size = m.form.group_size == -1 ? m.cols : m.form.group_size;
  return (m.cols + size - 1) / size;
}

void read_gptq(PartsReader& parts, const QuantizedModule& m) {
  const int64_t groups = group_count(m), bits = m.form.bits;
  parts.take("qweight", DType::kI32, {{words(m.cols, bits), m.rows}});
  parts.take("qzeros", DType::kI32, {{groups, words(m.rows, bits)}});
  parts.take_scales("scales", {{groups, m.rows}});
  if (parts.has("g_idx")) parts.take("g_idx", DType::kI32, {{m.cols}});
}

void read_awq(PartsReader& parts, const QuantizedModule& m) {
  QLORA_CHECK(m.rows % 8 == 0 && m.cols % group_count(m) == 0, ShapeError,
              "[io] {}: a weight [{}, {}] cannot be stored as {}", m.name, m.rows, m.cols,
              describe(m.form));
  parts.take("qweight", DType::kI32, {{m.cols, m.rows / 8}});
  parts.take("qzeros", DType::kI32, {{group_count(m), m.rows / 8}});
  parts.take_scales("scales", {{group_count(m), m.rows}});
}

void read_compressed(PartsReader& parts, const QuantizedModule& m) {
  const int64_t bits = m.form.bits, groups = group_count(m);
  if (m.form.form == PackedForm::kPackQuantized) {
    parts.take("weight_packed", DType::kI32, {{m.rows, words(m.cols, bits)}});
    const TensorView& shape = parts.take("weight_shape", DType::kI64, {{2}});
    int64_t sizes[2];
    std::memcpy(sizes, shape.bytes.data(), sizeof(sizes));
    QLORA_CHECK(sizes[0] == m.rows && sizes[1] == m.cols, ShapeError,
                "[io] tensor '{}' holds [{}, {}], the config asks for [{}, {}]", shape.name,
                sizes[0], sizes[1], m.rows, m.cols);
    if (parts.has("weight_g_idx")) parts.take("weight_g_idx", DType::kI32, {{m.cols}});
  } else {
    parts.take("weight", m.form.form == PackedForm::kIntQuantized ? DType::kI8 : DType::kF8E4M3,
               {{m.rows, m.cols}});
  }
  if (groups == 1) {
    parts.take_scales("weight_scale", {{m.rows, 1}, {m.rows}, {1}, {}});
  } else {
    parts.take_scales("weight_scale", {{m.rows, groups}});
  }
  if (m.form.form != PackedForm::kFloatQuantized && parts.has("weight_zero_point")) {
    parts.take("weight_zero_point");  // packed or plain: its reader looks at both
  }
  const bool is_static =
      m.form.inputs == InputForm::kFp8Static || m.form.inputs == InputForm::kInt8Static;
  if (is_static) parts.take_scales("input_scale", {{1}, {}});
}

void read_bnb_four_bit(PartsReader& parts, const QuantizedModule& m) {
  const TensorView& codes = parts.take("weight");
  const auto bytes = static_cast<int64_t>(codes.bytes.size());
  QLORA_CHECK(bytes == (m.rows * m.cols + 1) / 2, ShapeError,
              "[io] tensor '{}' has {} bytes of 4-bit codes, a weight [{}, {}] asks for {}",
              codes.name, bytes, m.rows, m.cols, (m.rows * m.cols + 1) / 2);
  for (const char* part : {"weight.absmax", "weight.quant_map"}) parts.take(part);
  for (const char* part : {"weight.nested_absmax", "weight.nested_quant_map"}) {
    if (parts.has(part)) parts.take(part);
  }
  bool found = false;
  for (const char* part : kFourBitStates) {
    if (parts.has(part)) parts.take(part), found = true;
  }
  if (!found) parts.take(kFourBitStates[0]);  // says that it is missing
}

void read_bnb_int8(PartsReader& parts, const QuantizedModule& m) {
  parts.take("weight", DType::kI8, {{m.rows, m.cols}});
  parts.take("SCB", DType::kF32, {{m.rows}});
}

}  // namespace

int64_t QuantizedModule::bytes() const {
  int64_t bytes = 0;
  for (const auto& [part, view] : parts) bytes += static_cast<int64_t>(view->bytes.size());
  return bytes;
}

QuantizedModule find_quantized_module(const SafetensorsReader& reader, const std::string& module,
                                      const QuantizedForm& form, int64_t rows, int64_t cols) {
  QuantizedModule m{.name = module, .form = form, .rows = rows, .cols = cols, .parts = {}};
  PartsReader parts(reader, m);
  switch (form.form) {
    case PackedForm::kGptq:
    case PackedForm::kGptqV2:
      read_gptq(parts, m);
      break;
    case PackedForm::kAwqGemm:
      read_awq(parts, m);
      break;
    case PackedForm::kPackQuantized:
    case PackedForm::kIntQuantized:
    case PackedForm::kFloatQuantized:
      read_compressed(parts, m);
      break;
    case PackedForm::kBnbFourBit:
      read_bnb_four_bit(parts, m);
      break;
    case PackedForm::kBnbInt8:
      read_bnb_int8(parts, m);
      break;
  }
  return m;
}

const TensorView* find_plain_weight(const SafetensorsReader& reader, const std::string& module) {
  const TensorView* view = reader.find(module + ".weight");
  if (view == nullptr || !is_scale_type(view->dtype)) return nullptr;
  // bitsandbytes can store its codes in tensors of a float type.
  for (const char* state : kFourBitStates) {
    if (reader.find(module + "." + state) != nullptr) return nullptr;
  }
  return view;
}

}  // namespace qlora::io
