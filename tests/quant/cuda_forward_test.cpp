// The program's side of namespace cuda on a machine without a driver. With one, tests of kernels
// elsewhere show that the same calls work.
#include <gtest/gtest.h>

#include "quant/affine_backend.h"
#include "quant/blockwise8_backend.h"
#include "quant/fp8_backend.h"
#include "quant/gemv_backend.h"
#include "quant/gptq_backend.h"
#include "quant/nf4_backend.h"
#include "quant/pack_words_backend.h"
#include "quant/packed_affine_backend.h"
#include "quant/tiled_products_backend.h"
#include "tests/support/without_driver.h"

namespace qlora::quant {
namespace {

TEST(CudaForward, EveryCallWithoutADriverSaysWhy) {
  if (testing::has_driver()) GTEST_SKIP() << "a CUDA driver is there";
  testing::expect_no_driver([] { cuda::dequantize_nf4({}); });
  testing::expect_no_driver([] { cuda::quantize_nf4({}); });
  testing::expect_no_driver([] { cuda::mean({}); });
  testing::expect_no_driver([] { cuda::quantize_blockwise8({}); });
  testing::expect_no_driver([] { cuda::dequantize_blockwise8({}); });
  testing::expect_no_driver([] { cuda::dequantize_packed({}); });
  testing::expect_no_driver([] { cuda::dequantize_fp8({}); });
  testing::expect_no_driver([] { cuda::affine_grids({}); });
  testing::expect_no_driver([] { cuda::affine_round({}); });
  testing::expect_no_driver([] { cuda::affine_fit_and_round({}); });
  testing::expect_no_driver([] { cuda::affine_values({}); });
  testing::expect_no_driver([] { cuda::quantize_fp8({}); });
  testing::expect_no_driver([] { cuda::gemv_nf4({}); });
  testing::expect_no_driver([] { cuda::gemv_packed({}); });
  testing::expect_no_driver([] { cuda::gemv_words({}); });
  testing::expect_no_driver([] { cuda::gptq_block({}); });
  testing::expect_no_driver([] { cuda::search_grids({}); });
  testing::expect_no_driver([] { cuda::pack_words({}); });
  testing::expect_no_driver([] { cuda::make_tiled_products({}); });
}

}  // namespace
}  // namespace qlora::quant
