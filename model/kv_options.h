#pragma once

#include <utility>

#include "core/fields.h"

namespace qlora::model {

/// How an engine that keeps keys and values in few bits changes them.
enum class KvRounding {
  kNone,
  kInt8,  // both: 8 bits, symmetric, a scale for each token and head
  kInt4,  // 4 bits, from smallest to largest: keys by channel, values by token and head
};

}  // namespace qlora::model

template <>
struct qlora::EnumNames<qlora::model::KvRounding> {
  using E = qlora::model::KvRounding;
  static constexpr std::pair<E, const char*> kNames[] = {
      {E::kNone, "none"}, {E::kInt8, "int8"}, {E::kInt4, "int4"}};
};
