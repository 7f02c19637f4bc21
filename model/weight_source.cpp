#include "model/weight_source.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "lora/tensor_view.h"
#include "quant/layouts.h"

namespace qlora::model {

namespace {

constexpr int64_t kSliceElements = 1 << 20;

quant::TensorMap parts_of(const io::QuantizedModule& module) {
  quant::TensorMap parts;
  for (const auto& [name, view] : module.parts) parts[name] = lora::tensor_copy(*view);
  return parts;
}

lora::FrozenWeight four_bit(const quant::TensorMap& parts, const io::QuantizedModule& m) {
  auto nf4 = quant::Nf4Tensor::from_tensors("weight", parts);
  QLORA_CHECK(nf4.rows() == m.rows && nf4.cols() == m.cols, ShapeError,
              "[model] the 4-bit state says [{}, {}], the config asks for [{}, {}]", nf4.rows(),
              nf4.cols(), m.rows, m.cols);
  return lora::FrozenWeight(std::move(nf4));
}

lora::FrozenWeight decoded(const quant::TensorMap& parts, const io::QuantizedModule& m) {
  using quant::CompressedFormat;
  using quant::GptqFormat;
  const int64_t bits = m.form.bits, size = m.form.group_size;
  const auto packed = [](const quant::AffineTensor& t) {
    return lora::FrozenWeight(quant::pack_affine(t));
  };
  switch (m.form.form) {
    case io::PackedForm::kGptq:
      return packed(quant::from_gptq(parts, GptqFormat::kV1, bits, size));
    case io::PackedForm::kGptqV2:
      return packed(quant::from_gptq(parts, GptqFormat::kV2, bits, size));
    case io::PackedForm::kAwqGemm:
      return packed(quant::from_awq_gemm(parts, size));
    case io::PackedForm::kPackQuantized:
      return packed(quant::from_compressed_tensors(parts, CompressedFormat::kPackQuantized, bits));
    case io::PackedForm::kIntQuantized:
      return packed(quant::from_compressed_tensors(parts, CompressedFormat::kIntQuantized, bits));
    case io::PackedForm::kFloatQuantized:
      return lora::FrozenWeight(quant::from_float_quantized(parts));
    case io::PackedForm::kBnbFourBit:
      return four_bit(parts, m);
    case io::PackedForm::kBnbInt8:
      break;
  }
  return packed(quant::from_llm_int8(parts));
}

/// The one scale of int8 inputs.
float fixed_scale(const quant::TensorMap& parts) {
  const auto scale = parts.at("input_scale").to(torch::kFloat32).item<float>();
  QLORA_CHECK(std::isfinite(scale) && scale > 0, FormatError,
              "[model] input_scale is {}, allowed one positive number", scale);
  return scale;
}

/// What the engine that the format is made for does to the inputs.
void set_inputs(lora::FrozenWeight& weight, const io::QuantizedForm& form,
                const quant::TensorMap& parts) {
  using quant::InputRounding;
  switch (form.inputs) {
    case io::InputForm::kPlain:
      return;
    case io::InputForm::kInt8PerToken:
      return weight.set_input_quantizer({InputRounding::kInt8PerToken});
    case io::InputForm::kInt8WithOutliers:
      return weight.set_input_quantizer({.rounding = InputRounding::kInt8WithOutliers,
                                         .threshold = static_cast<float>(form.outlier_threshold)});
    case io::InputForm::kFp8PerToken:
      return weight.set_input_quantizer({InputRounding::kFp8PerToken});
    case io::InputForm::kFp8Static:
      return weight.set_input_quantizer(
          {InputRounding::kFp8Static, weight.as<quant::Fp8Tensor>().input_scale.item<float>()});
    case io::InputForm::kInt8Static:
      return weight.set_input_quantizer({InputRounding::kInt8Static, fixed_scale(parts)});
  }
}

/// slice: rows of the tensor from first_row on, [rows, K] f32
void check_finite(const torch::Tensor& slice, int64_t first_row, const io::Checkpoint& checkpoint,
                  const std::string& name) {
  // A sum keeps NaN and infinity. One that overflows of itself is looked at as well, and passes.
  if (std::isfinite(slice.sum().item<float>())) return;
  const torch::Tensor bad = slice.isfinite().logical_not().nonzero();
  if (bad.size(0) == 0) return;
  const auto row = bad[0][0].item<int64_t>(), col = bad[0][1].item<int64_t>();
  const std::string place = checkpoint.shape(name).size() == 1
                                ? fmt::format("[{}]", col)
                                : fmt::format("[{}, {}]", first_row + row, col);
  throw ValueError(fmt::format(
      "[model] {} of {} is {} at {}, which is not finite; the checkpoint may be damaged, "
      "fetch it again",
      name, checkpoint.path().string(), slice[row][col].item<float>(), place));
}

}  // namespace

torch::Tensor WeightSource::dense(const std::string& name, torch::ScalarType dtype) const {
  if (checkpoint_.is_quantized(name)) {
    return packed(name.substr(0, name.size() - std::string(".weight").size())).dense_copy(dtype);
  }
  const auto& shape = checkpoint_.shape(name);
  const int64_t rows = shape.size() == 2 ? shape[0] : 1, cols = shape.back();
  torch::Tensor out = at::empty({rows, cols}, torch::TensorOptions(dtype));
  const int64_t step = std::max<int64_t>(1, kSliceElements / cols);
  for (int64_t begin = 0; begin < rows; begin += step) {
    const int64_t count = std::min(step, rows - begin);
    torch::Tensor slice = at::empty({count, cols}, torch::kFloat32);
    checkpoint_.tensor_f32_rows(name, begin, count, slice.mutable_data_ptr<float>());
    check_finite(slice, begin, checkpoint_, name);
    out.narrow(0, begin, count).copy_(slice);
  }
  checkpoint_.release(name);
  return out;
}

lora::FrozenWeight WeightSource::packed(const std::string& module) const {
  const io::QuantizedModule& m = checkpoint_.quantized_module(module);
  try {
    const quant::TensorMap parts = parts_of(m);
    lora::FrozenWeight weight = decoded(parts, m);
    set_inputs(weight, m.form, parts);
    checkpoint_.release(module + ".weight");
    return weight;
  } catch (const Error& problem) {
    throw FormatError(
        fmt::format("[model] {} of {}: {}", module, checkpoint_.path().string(), problem.what()));
  }
}

}  // namespace qlora::model
