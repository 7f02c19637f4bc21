// The function tables that libqlora_cuda.so hands over, as its objects hold them.
#include <gtest/gtest.h>

#include <cstring>

#include "core/cuda/device.h"
#include "lora/cuda_table.h"
#include "model/cuda_table.h"
#include "quant/cuda_table.h"
#include "tests/kernels/back_end.h"
#include "trainer/cuda_table.h"

extern "C" {
const qlora::cuda::TableHeader* qlora_core_cuda_table();
const qlora::cuda::TableHeader* qlora_lora_cuda_table();
const qlora::cuda::TableHeader* qlora_model_cuda_table();
const qlora::cuda::TableHeader* qlora_quant_cuda_table();
const qlora::cuda::TableHeader* qlora_trainer_cuda_table();
}

namespace qlora {
namespace {

template <class Table>
const Table& checked(const cuda::TableHeader* header) {
  EXPECT_EQ(header->version, Table::kVersion);
  EXPECT_EQ(header->size_bytes, sizeof(Table));
  return *reinterpret_cast<const Table*>(header);
}

class CudaTables : public testing::KernelTest {};

TEST_P(CudaTables, DescribeTheDevice) {
  const auto& core = checked<cuda::CoreTable>(qlora_core_cuda_table());
  EXPECT_GE(core.device_count(), 1);
  cuda::DeviceInfo info = {};
  core.device_info(0, &info);
  EXPECT_GT(std::strlen(info.name), 0u);
  EXPECT_GE(info.major, 8);
  EXPECT_GT(info.total_bytes, 0);
  EXPECT_GT(info.free_bytes, 0);
  EXPECT_LE(info.free_bytes, info.total_bytes);
  const testing::DeviceArray<float> array(testing::BackEnd::kCuda, std::vector<float>(1 << 20));
  cuda::DeviceInfo later = {};
  core.device_info(0, &later);
  EXPECT_LE(later.free_bytes, info.free_bytes - (4 << 20));
}

TEST_P(CudaTables, HoldTheFoldersFunctions) {
  const auto& quant = checked<quant::CudaTable>(qlora_quant_cuda_table());
  EXPECT_EQ(quant.dequantize_nf4, &quant::cuda::dequantize_nf4);
  EXPECT_EQ(quant.dequantize_fp8, &quant::cuda::dequantize_fp8);
  const auto& trainer = checked<trainer::CudaTable>(qlora_trainer_cuda_table());
  EXPECT_EQ(trainer.adamw8, &trainer::cuda::adamw8);
  EXPECT_EQ(trainer.adamw32, &trainer::cuda::adamw32);
  EXPECT_EQ(trainer.gradient_norm, &trainer::cuda::gradient_norm);
  EXPECT_EQ(trainer.fused_adamw32, &trainer::cuda::fused_adamw32);
  EXPECT_EQ(quant.affine_grids, &quant::cuda::affine_grids);
  EXPECT_EQ(quant.pack_words, &quant::cuda::pack_words);
  EXPECT_EQ(quant.make_tiled_products, &quant::cuda::make_tiled_products);
  EXPECT_EQ(trainer.make_device_optimizer, &trainer::cuda::make_device_optimizer);
  const auto& lora = checked<lora::CudaTable>(qlora_lora_cuda_table());
  EXPECT_EQ(lora.lora_sum, &lora::cuda::lora_sum);
  EXPECT_EQ(lora.merge, &lora::cuda::merge);
  const auto& model = checked<model::CudaTable>(qlora_model_cuda_table());
  EXPECT_EQ(model.rms_norm, &model::cuda::rms_norm);
  EXPECT_EQ(model.cross_entropy, &model::cuda::cross_entropy);
  EXPECT_EQ(model.make_activation_store, &model::cuda::make_activation_store);
}

INSTANTIATE_TEST_SUITE_P(All, CudaTables,
                         ::testing::Values(testing::KernelCase{testing::BackEnd::kCuda,
                                                               FloatKind::kF32}),
                         testing::case_name);

}  // namespace
}  // namespace qlora
