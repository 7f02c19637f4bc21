#include "exporter/tensor_bytes.h"

#include "core/error.h"

namespace qlora::exporter {

namespace {

io::DType file_dtype(const NamedTensor& named) {
  switch (named.tensor.scalar_type()) {
    case torch::kFloat32:
      return io::DType::kF32;
    case torch::kFloat16:
      return io::DType::kF16;
    case torch::kBFloat16:
      return io::DType::kBF16;
    case torch::kFloat8_e4m3fn:
      return io::DType::kF8E4M3;
    case torch::kInt8:
      return io::DType::kI8;
    case torch::kUInt8:
      return io::DType::kU8;
    case torch::kInt32:
      return io::DType::kI32;
    case torch::kInt64:
      return io::DType::kI64;
    default:
      throw ValueError(
          fmt::format("[export] {} has the number type {}, which model files do not "
                      "hold",
                      named.name, c10::toString(named.tensor.scalar_type())));
  }
}

}  // namespace

io::TensorView tensor_view(const NamedTensor& named) {
  return {.name = named.name,
          .dtype = file_dtype(named),
          .shape = named.tensor.sizes().vec(),
          .bytes = {static_cast<const std::byte*>(named.tensor.const_data_ptr()),
                    static_cast<size_t>(named.tensor.nbytes())}};
}

}  // namespace qlora::exporter
