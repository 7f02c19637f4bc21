#pragma once

#include <cstdint>
#include <vector>

#include "trainer/optimizer.h"

namespace qlora::trainer {

/// AdamW with states of one byte a number in blocks of 256, as bitsandbytes lays them out.
///   Small     tensors under kAdamw8MinElements (4,096) elements keep 32-bit states
///   Memory    2.03 bytes a parameter beside its FP32 master; all codes lie in one arena, so that a
///             device with paged memory can move them in large pieces
///   Numbers   adamw_math.h with the nearest code; a negative mean never becomes 0. bitsandbytes'
///             CPU code takes its codes from a table of 65,536 bins instead, its CUDA code decays
///             after the update
///   Source    Dettmers et al., 8-bit Optimizers via Block-wise Quantization, arXiv:2110.02861
class PagedAdamW8bit final : public Optimizer {
 public:
  PagedAdamW8bit(std::vector<Parameter> parameters, const OptimizerOptions& options);
  void step(double learning_rate) override;
  std::vector<NamedTensor> state_tensors() const override;

  int64_t state_bytes() const;

 private:
  struct State {
    bool is_8bit = false;
    torch::Tensor mean;           // 8 bit: codes, u8 views of the arena; else f32
    torch::Tensor square;         //
    torch::Tensor mean_absmax;    // [ceil(count / 256)] f32; undefined with 32 bits
    torch::Tensor square_absmax;  //
  };

  torch::Tensor codes_;   // u8: the arena of all means, then squares, tensor by tensor
  torch::Tensor absmax_;  // f32: theirs
  std::vector<State> states_;
};

}  // namespace qlora::trainer
