// Nf4Tensor as a bitsandbytes checkpoint: tests/fixtures/bnb/linear4bit_state, and damaged ones.
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <random>

#include "core/error.h"
#include "quant/nf4.h"
#include "tests/quant/fixture.h"
#include "tests/support/errors.h"
#include "tests/support/fuzz.h"

namespace qlora::quant {
namespace {

const std::string kName = "lin.weight";
const std::string kState = kName + ".quant_state.bitsandbytes__nf4";

torch::Tensor tensor_of(const io::TensorView& view) {
  const auto dtype = view.dtype == io::DType::kU8    ? torch::kUInt8
                     : view.dtype == io::DType::kF32 ? torch::kFloat32
                                                     : torch::kBFloat16;
  auto tensor = torch::empty(view.shape, dtype);
  std::memcpy(tensor.mutable_data_ptr(), view.bytes.data(), view.bytes.size());
  return tensor;
}

TensorMap linear4bit_state() {
  const io::SafetensorsReader reader(testing::bnb_folder() / "linear4bit_state.safetensors");
  TensorMap tensors;
  for (const auto& view : reader.tensors()) tensors[view.name] = tensor_of(view);
  return tensors;
}

torch::Tensor text_tensor(const std::string& text) {
  auto bytes = torch::empty({static_cast<int64_t>(text.size())}, torch::kUInt8);
  std::copy(text.begin(), text.end(), bytes.mutable_data_ptr<uint8_t>());
  return bytes;
}

nlohmann::json state_of(const TensorMap& tensors, const std::string& key = kState) {
  const auto& bytes = tensors.at(key);
  const auto* text = reinterpret_cast<const char*>(bytes.const_data_ptr<uint8_t>());
  return nlohmann::json::parse(text, text + bytes.numel());
}

std::string refusal(const TensorMap& tensors) {
  return testing::refusal_of<FormatError>([&] { Nf4Tensor::from_tensors(kName, tensors); });
}

TEST(Nf4State, ReadsWhatBitsandbytesWrote) {
  const auto tensors = linear4bit_state();
  const Nf4Tensor t = Nf4Tensor::from_tensors(kName, tensors);
  EXPECT_EQ(t.rows(), 32);
  EXPECT_EQ(t.cols(), 128);
  EXPECT_EQ(t.block_size, 64);
  EXPECT_EQ(t.source_dtype, torch::kBFloat16);
  EXPECT_TRUE(t.is_double_quantized());
  EXPECT_EQ(t.codes.data_ptr(), tensors.at(kName).data_ptr());  // shared
  EXPECT_EQ(t.offset, 0.1326751708984375f);
  // Our own quantization of the weight that it was made of.
  const Nf4Tensor ours = quantize_nf4(tensors.at("orig_weight_bf16"));
  EXPECT_TRUE(torch::equal(ours.codes, t.codes));
  EXPECT_TRUE(torch::equal(ours.absmax_codes, t.absmax_codes));
  EXPECT_TRUE(
      torch::equal(dequantize_nf4(ours, torch::kBFloat16), dequantize_nf4(t, torch::kBFloat16)));
}

TEST(Nf4State, WritesTheSameTensors) {
  const auto theirs = linear4bit_state();
  const auto ours = Nf4Tensor::from_tensors(kName, theirs).to_tensors(kName);
  EXPECT_EQ(ours.size() + 1, theirs.size());  // theirs has the original weight, too
  for (const auto& [name, tensor] : ours) {
    ASSERT_TRUE(theirs.contains(name)) << name;
    EXPECT_EQ(tensor.scalar_type(), theirs.at(name).scalar_type()) << name;
    if (name == kState) {
      EXPECT_EQ(state_of(ours), state_of(theirs));
    } else {
      EXPECT_EQ(tensor.sizes(), theirs.at(name).sizes()) << name;
      EXPECT_TRUE(torch::equal(tensor, theirs.at(name))) << name;
    }
  }
}

TEST(Nf4State, EveryKindSurvivesTheRoundTrip) {
  const auto weight = torch::randn({37, 51});
  for (const auto type : {FourBitType::kNf4, FourBitType::kFp4}) {
    for (const bool double_quant : {false, true}) {
      for (const auto dtype : {torch::kFloat32, torch::kFloat16, torch::kBFloat16}) {
        const Nf4Tensor t =
            quantize_nf4(weight.to(dtype),
                         {.quant_type = type, .block_size = 128, .double_quant = double_quant});
        const Nf4Tensor back = Nf4Tensor::from_tensors("w", t.to_tensors("w"));
        EXPECT_TRUE(torch::equal(dequantize_nf4(t, torch::kFloat32),
                                 dequantize_nf4(back, torch::kFloat32)));
        EXPECT_EQ(back.quant_type, type);
        EXPECT_EQ(back.source_dtype, dtype);
        EXPECT_EQ(back.offset, t.offset);
        EXPECT_EQ(back.block_size, 128);
        EXPECT_EQ(back.is_double_quantized(), double_quant);
      }
    }
  }
}

TEST(Nf4State, ReadsCodesThatAreStoredAsWiderNumbers) {
  auto tensors = linear4bit_state();
  const Nf4Tensor plain = Nf4Tensor::from_tensors(kName, tensors);
  tensors[kName] = tensors[kName].view(-1).view(torch::kBFloat16);  // bnb_4bit_quant_storage
  EXPECT_TRUE(torch::equal(Nf4Tensor::from_tensors(kName, tensors).codes, plain.codes));
}

TEST(Nf4State, AcceptsAMapThatDiffersInItsLastBits) {
  auto tensors = linear4bit_state();
  auto map = tensors[kName + ".nested_quant_map"].clone();
  map[200] = std::nextafter(map[200].item<float>(), 2.0f);
  tensors[kName + ".nested_quant_map"] = map;
  EXPECT_EQ(refusal(tensors), "");
}

TEST(Nf4State, RefusesMissingTensors) {
  for (const auto& [name, tensor] : linear4bit_state()) {
    if (name == "orig_weight_bf16" || name == kName + ".nested_absmax") continue;
    auto tensors = linear4bit_state();
    tensors.erase(name);
    EXPECT_SAYS(refusal(tensors), name + " is missing");
  }
  auto tensors = linear4bit_state();
  tensors.erase(kName + ".nested_absmax");  // then the scales have to be f32
  EXPECT_SAYS(refusal(tensors), ".absmax has 64 elements of Byte");
}

TEST(Nf4State, RefusesTensorsOfAnotherSizeOrType) {
  for (const auto& [name, tensor] : linear4bit_state()) {
    if (name == "orig_weight_bf16" || name == kState) continue;
    auto tensors = linear4bit_state();
    tensors[name] = tensor.view(-1).narrow(0, 0, tensor.numel() - 1).contiguous();
    EXPECT_SAYS(refusal(tensors), "expected") << name;
    if (name == kName) continue;
    tensors[name] = tensor.to(torch::kFloat64);
    EXPECT_SAYS(refusal(tensors), "Double") << name;
    tensors[name] = torch::stack({tensor, tensor}, 1).select(1, 0);
    if (tensor.numel() > 1) {
      EXPECT_SAYS(refusal(tensors), "not contiguous") << name;
    }
  }
  auto tensors = linear4bit_state();
  tensors[kName] = torch::stack({tensors[kName], tensors[kName]}, 1).select(1, 0);
  EXPECT_SAYS(refusal(tensors), "not contiguous");
}

TEST(Nf4State, RefusesForeignMapsAndScales) {
  const auto change = [](const std::string& suffix, int64_t i, float value) {
    auto tensors = linear4bit_state();
    tensors[kName + suffix] = tensors[kName + suffix].clone();
    tensors[kName + suffix][i] = value;
    return refusal(tensors);
  };
  EXPECT_SAYS(change(".quant_map", 3, -0.39f), ".quant_map element 3 is -0.39");
  EXPECT_SAYS(change(".quant_map", 7, 1e-9f), ".quant_map element 7");
  EXPECT_SAYS(change(".nested_quant_map", 0, std::nanf("")), "element 0 is nan");
  EXPECT_SAYS(change(".nested_absmax", 0, std::nanf("")), "NaN or infinity");
  EXPECT_SAYS(change(".nested_absmax", 0, std::numeric_limits<float>::infinity()), "infinity");
  Nf4Tensor plain = quantize_nf4(torch::ones({4, 64}), {.double_quant = false});
  auto tensors = plain.to_tensors(kName);
  tensors[kName + ".absmax"][2] = -std::numeric_limits<float>::infinity();
  EXPECT_SAYS(refusal(tensors), ".absmax holds NaN or infinity");
}

TEST(Nf4State, RefusesStatesThatLie) {
  const auto with = [](const std::string& key, const nlohmann::json& value) {
    auto tensors = linear4bit_state();
    auto state = state_of(tensors);
    if (value.is_null()) {
      state.erase(key);
    } else {
      state[key] = value;
    }
    tensors[kState] = text_tensor(state.dump());
    return refusal(tensors);
  };
  EXPECT_SAYS(with("quant_type", "fp4"), "quant_type is fp4, expected nf4");
  EXPECT_SAYS(with("quant_type", 4), "no text quant_type");
  EXPECT_SAYS(with("blocksize", nullptr), "no integer blocksize");
  EXPECT_SAYS(with("blocksize", 63), "a power of two");
  EXPECT_SAYS(with("blocksize", 8192), "blocksize is 8192, allowed [32, 4096]");
  EXPECT_SAYS(with("blocksize", 64.5), "no integer blocksize");
  EXPECT_SAYS(with("blocksize", UINT64_MAX), "allowed [32, 4096]");
  EXPECT_SAYS(with("blocksize", 128), "expected 32 of");
  EXPECT_SAYS(with("shape", nullptr), "no shape of two sizes");
  EXPECT_SAYS(with("shape", {32, 128, 1}), "no shape of two sizes");
  EXPECT_SAYS(with("shape", {32, -128}), "allowed [1,");
  EXPECT_SAYS(with("shape", {32, "128"}), "no integer shape");
  EXPECT_SAYS(with("shape", {33, 128}), "bytes of codes");
  EXPECT_SAYS(with("shape", {int64_t{1} << 40, int64_t{1} << 40}), "more than 2^48");
  EXPECT_SAYS(with("shape", {UINT64_MAX, 2}), "allowed [1,");
  EXPECT_SAYS(with("dtype", "float64"), "dtype is float64");
  EXPECT_SAYS(with("nested_blocksize", 128), "nested_blocksize is 128");
  EXPECT_SAYS(with("nested_dtype", "float16"), "nested_dtype is float16");
  EXPECT_SAYS(with("nested_offset", nullptr), "no number nested_offset");
  EXPECT_SAYS(with("nested_offset", "0.1"), "no number nested_offset");
  EXPECT_SAYS(with("nested_offset", 3.5e38), "NaN or infinity");
}

TEST(Nf4State, RefusesTextThatIsNoState) {
  for (const std::string& text :
       {std::string(), std::string("{"), std::string("[1]"), std::string("null"),
        std::string(60000, '['), std::string("{\"a\": ") + std::string(60000, '['),
        std::string("\xff\xfe"), std::string(1 << 17, ' ')}) {
    auto tensors = linear4bit_state();
    tensors[kState] = text_tensor(text);
    EXPECT_SAYS(refusal(tensors), "[quant] weight lin.weight: .quant_state");
  }
  auto tensors = linear4bit_state();
  tensors[kState] = torch::ones({4}, torch::kFloat32);
  EXPECT_SAYS(refusal(tensors), "no JSON text");
}

TEST(Nf4State, FuzzedStatesAreReadOrRefused) {
  std::mt19937 random(7);
  const auto good = linear4bit_state();
  int64_t accepted = 0;
  const int64_t rounds = test::fuzz_iterations(4000);
  for (int64_t round = 0; round < rounds; ++round) {
    auto tensors = good;
    auto bytes = good.at(kState).clone();
    for (uint32_t i = 0; i < 1 + random() % 3; ++i) {
      bytes[static_cast<int64_t>(random() % bytes.numel())] = static_cast<int>(random() % 256);
    }
    tensors[kState] =
        bytes.narrow(0, 0, random() % 4 == 0 ? random() % bytes.numel() : bytes.numel())
            .contiguous();
    try {
      const Nf4Tensor t = Nf4Tensor::from_tensors(kName, tensors);
      ASSERT_TRUE(dequantize_nf4(t, torch::kFloat32).isfinite().all().item<bool>());
      ++accepted;
    } catch (const FormatError& error) {
      test::expect_one_line(error);
    }
  }
  EXPECT_LT(accepted, rounds / 2);
}

}  // namespace
}  // namespace qlora::quant
