#pragma once

#include <cstdint>
#include <utility>

#include "core/constraint.h"
#include "quant/four_bit_type.h"

namespace qlora::quant {

/// How a frozen weight matrix is stored.
struct Nf4Options {
  FourBitType quant_type = FourBitType::kNf4;
  int64_t block_size = 64;   // elements per scale; a power of two in [32, 4096]
  bool double_quant = true;  // 8-bit scales: 4.127 bits per weight instead of 4.5 at block size 64
};

template <class V>
void fields(V& v, Nf4Options& o) {
  v("bnb_4bit_quant_type", o.quant_type, any_value(), "the 16 levels: nf4 or fp4");
  v("block_size", o.block_size, in_range(32, 4096), "elements per scale, a power of two");
  v("bnb_4bit_use_double_quant", o.double_quant, any_value(),
    "scales in 8 bits: 4.127 bits per weight instead of 4.5 at block size 64");
}

}  // namespace qlora::quant

template <>
struct qlora::EnumNames<qlora::quant::FourBitType> {
  static constexpr std::pair<quant::FourBitType, const char*> kNames[] = {
      {quant::FourBitType::kNf4, "nf4"}, {quant::FourBitType::kFp4, "fp4"}};
};
