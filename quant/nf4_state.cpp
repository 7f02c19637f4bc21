// Nf4Tensor as the tensors of a bitsandbytes checkpoint, and back.
#include <bit>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string_view>

#include "core/error.h"
#include "quant/nf4.h"
#include "quant/nf4_math.h"

namespace qlora::quant {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kMaxStateBytes = 1 << 16;
constexpr int64_t kMaxElements = int64_t{1} << 48;

// A map made on another processor may differ in its last bits; our own levels are used.
constexpr float kMapTolerance = 1e-6f;

const char* type_name(FourBitType type) {
  return type == FourBitType::kNf4 ? "nf4" : "fp4";
}

std::string state_key(FourBitType type) {
  return fmt::format(".quant_state.bitsandbytes__{}", type_name(type));
}

const char* dtype_name(torch::ScalarType dtype) {
  switch (dtype) {
    case torch::kFloat16:
      return "float16";
    case torch::kBFloat16:
      return "bfloat16";
    default:
      return "float32";
  }
}

torch::Tensor four_bit_map(FourBitType type) {
  auto map = torch::empty({16}, torch::kFloat32);
  for (int c = 0; c < 16; ++c) {
    map.mutable_data_ptr<float>()[c] = four_bit_level(type, static_cast<uint8_t>(c));
  }
  return map;
}

torch::Tensor nested_map() {
  auto map = torch::empty({256}, torch::kFloat32);
  std::memcpy(map.mutable_data_ptr(), signed_dynamic_table().levels, sizeof(float) * 256);
  return map;
}

/// Reads the tensors of one weight and says which weight it is where something is wrong.
class StateReader {
 public:
  StateReader(const std::string& name, const TensorMap& tensors) : name_(name), tensors_(tensors) {}

  template <class... Args>
  [[noreturn]] void fail(fmt::format_string<Args...> text, Args&&... args) const {
    throw FormatError(fmt::format("[quant] weight {}: {}", name_,
                                  fmt::format(text, std::forward<Args>(args)...)));
  }

  bool has(const std::string& suffix) const { return tensors_.contains(name_ + suffix); }

  /// The tensor `name`.suffix, which has to be contiguous, of one type and length.
  torch::Tensor at(const std::string& suffix, torch::ScalarType dtype, int64_t count) const {
    const auto found = tensors_.find(name_ + suffix);
    if (found == tensors_.end()) fail("tensor {} is missing", name_ + suffix);
    const torch::Tensor& tensor = found->second;
    if (tensor.scalar_type() != dtype || tensor.numel() != count || !tensor.is_contiguous()) {
      fail("{} has {} elements of {}{}, expected {} of {}", suffix.empty() ? "weight" : suffix,
           tensor.numel(), c10::toString(tensor.scalar_type()),
           tensor.is_contiguous() ? "" : " (not contiguous)", count, c10::toString(dtype));
    }
    return tensor.view(-1);
  }

  /// The packed codes, which may be stored as bytes or as wider numbers.
  torch::Tensor codes(int64_t count) const {
    const auto found = tensors_.find(name_);
    if (found == tensors_.end()) fail("tensor {} is missing", name_);
    torch::Tensor tensor = found->second;
    if (!tensor.is_contiguous()) fail("the codes are not contiguous");
    tensor = tensor.view(-1).view(torch::kUInt8);
    if (tensor.numel() != count) fail("{} bytes of codes, expected {}", tensor.numel(), count);
    return tensor;
  }

  void check_map(const std::string& suffix, const torch::Tensor& expected) const {
    const auto map = at(suffix, torch::kFloat32, expected.numel()).to(torch::kCPU);
    for (int64_t i = 0; i < expected.numel(); ++i) {
      const float got = map.const_data_ptr<float>()[i];
      const float want = expected.const_data_ptr<float>()[i];
      if (!(std::abs(got - want) <= kMapTolerance * std::abs(want))) {
        fail("{} element {} is {}, expected {}", suffix, i, got, want);
      }
    }
  }

  void check_finite(const std::string& suffix, const torch::Tensor& scales) const {
    if (!scales.isfinite().all().item<bool>()) fail("{} holds NaN or infinity", suffix);
  }

  Json state(const std::string& suffix) const {
    const auto found = tensors_.find(name_ + suffix);
    const torch::Tensor& tensor = found->second;
    if (tensor.scalar_type() != torch::kUInt8 || !tensor.is_contiguous() ||
        tensor.numel() > kMaxStateBytes) {
      fail("{} is no JSON text of at most {} bytes", suffix, kMaxStateBytes);
    }
    const auto bytes = tensor.to(torch::kCPU);
    const auto* text = reinterpret_cast<const char*>(bytes.const_data_ptr<uint8_t>());
    const Json json = Json::parse(text, text + bytes.numel(), nullptr, /*allow_exceptions=*/false);
    if (!json.is_object()) fail("{} is no JSON object", suffix);
    return json;
  }

  int64_t integer(const Json& state, const char* key, int64_t low, int64_t high) const {
    const auto found = state.find(key);
    if (found == state.end() || !found->is_number_integer()) fail("state has no integer {}", key);
    const auto value = found->is_number_unsigned() && found->get<uint64_t>() > uint64_t(INT64_MAX)
                           ? INT64_MAX
                           : found->get<int64_t>();
    if (value < low || value > high) fail("{} is {}, allowed [{}, {}]", key, value, low, high);
    return value;
  }

  std::string text(const Json& state, const char* key) const {
    const auto found = state.find(key);
    if (found == state.end() || !found->is_string()) fail("state has no text {}", key);
    return found->get<std::string>();
  }

 private:
  const std::string& name_;
  const TensorMap& tensors_;
};

void read_shape(const StateReader& reader, const Json& state, Nf4Tensor& t) {
  const auto found = state.find("shape");
  if (found == state.end() || !found->is_array() || found->size() != 2) {
    reader.fail("state has no shape of two sizes");
  }
  for (int i = 0; i < 2; ++i) {
    t.shape[i] = reader.integer(Json{{"shape", (*found)[i]}}, "shape", 1, kMaxElements);
  }
  if (t.shape[0] > kMaxElements / t.shape[1]) {
    reader.fail("shape [{}, {}] has more than 2^48 elements", t.shape[0], t.shape[1]);
  }
}

torch::ScalarType read_dtype(const StateReader& reader, const Json& state) {
  const std::string name = reader.text(state, "dtype");
  for (const auto dtype : {torch::kFloat32, torch::kFloat16, torch::kBFloat16}) {
    if (name == dtype_name(dtype)) return dtype;
  }
  reader.fail("dtype is {}, allowed float32, float16, bfloat16", name);
}

void read_scales(const StateReader& reader, const Json& state, Nf4Tensor& t) {
  const int64_t blocks = (t.numel() + t.block_size - 1) / t.block_size;
  if (!reader.has(".nested_absmax")) {
    t.absmax = reader.at(".absmax", torch::kFloat32, blocks);
    reader.check_finite(".absmax", t.absmax);
    return;
  }
  const int64_t nested_blocks = (blocks + kNestedBlockSize - 1) / kNestedBlockSize;
  reader.integer(state, "nested_blocksize", kNestedBlockSize, kNestedBlockSize);
  if (const std::string dtype = reader.text(state, "nested_dtype"); dtype != "float32") {
    reader.fail("nested_dtype is {}, allowed float32", dtype);
  }
  const auto offset = state.find("nested_offset");
  if (offset == state.end() || !offset->is_number()) {
    reader.fail("state has no number nested_offset");
  }
  t.offset = static_cast<float>(offset->get<double>());
  t.absmax_codes = reader.at(".absmax", torch::kUInt8, blocks);
  t.nested_absmax = reader.at(".nested_absmax", torch::kFloat32, nested_blocks);
  reader.check_map(".nested_quant_map", nested_map());
  // Bounds the scales, too: none is greater than nested_absmax + |offset|.
  reader.check_finite(".nested_absmax", t.nested_absmax.abs() + std::abs(t.offset));
}

}  // namespace

TensorMap Nf4Tensor::to_tensors(const std::string& name) const {
  Json state = {{"quant_type", type_name(quant_type)},
                {"blocksize", block_size},
                {"dtype", dtype_name(source_dtype)},
                {"shape", {shape[0], shape[1]}}};
  TensorMap tensors = {{name, codes.view({-1, 1})},
                       {name + ".absmax", is_double_quantized() ? absmax_codes : absmax},
                       {name + ".quant_map", four_bit_map(quant_type)}};
  if (is_double_quantized()) {
    tensors[name + ".nested_absmax"] = nested_absmax;
    tensors[name + ".nested_quant_map"] = nested_map();
    state["nested_blocksize"] = kNestedBlockSize;
    state["nested_dtype"] = "float32";
    state["nested_offset"] = static_cast<double>(offset);
  }
  const std::string text = state.dump();
  auto bytes = torch::empty({static_cast<int64_t>(text.size())}, torch::kUInt8);
  std::memcpy(bytes.mutable_data_ptr(), text.data(), text.size());
  tensors[name + state_key(quant_type)] = bytes;
  return tensors;
}

Nf4Tensor Nf4Tensor::from_tensors(const std::string& name, const TensorMap& tensors) {
  const StateReader reader(name, tensors);
  Nf4Tensor t;
  t.quant_type = reader.has(state_key(FourBitType::kNf4)) ? FourBitType::kNf4 : FourBitType::kFp4;
  if (!reader.has(state_key(t.quant_type))) {
    reader.fail("tensor {} is missing", name + state_key(FourBitType::kNf4));
  }
  const Json state = reader.state(state_key(t.quant_type));
  if (const std::string type = reader.text(state, "quant_type"); type != type_name(t.quant_type)) {
    reader.fail("quant_type is {}, expected {}", type, type_name(t.quant_type));
  }
  t.block_size = reader.integer(state, "blocksize", 32, 4096);
  if (!std::has_single_bit(static_cast<uint64_t>(t.block_size))) {
    reader.fail("blocksize is {}, allowed a power of two", t.block_size);
  }
  read_shape(reader, state, t);
  t.source_dtype = read_dtype(reader, state);
  t.codes = reader.codes((t.numel() + 1) / 2);
  reader.check_map(".quant_map", four_bit_map(t.quant_type));
  read_scales(reader, state, t);
  return t;
}

}  // namespace qlora::quant
