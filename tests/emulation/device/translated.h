#pragma once

#include <cstdint>
#include <vector>

#include "tests/emulation/device/approximate.h"
#include "tests/emulation/device/arithmetic.h"
#include "tests/emulation/device/atomic.h"
#include "tests/emulation/device/bits.h"
#include "tests/emulation/device/compare.h"
#include "tests/emulation/device/memory.h"
#include "tests/emulation/device/rounding.h"
#include "tests/emulation/device/warp.h"

// What the translator's output includes.

namespace qlora::emulation {

/// The PTX of one fat binary entry as C++. Registers itself; the runtime finds it by the hash of
/// the PTX that the program holds.
struct Translation {
  struct Variable {
    const char* name;
    void* memory;
    size_t size_bytes;
    bool is_constant;
  };
  struct Contents {
    uint64_t ptx_hash;
    int capability;  // e.g. 80
    std::vector<Entry> entries;
    std::vector<Variable> variables;
  };

  explicit Translation(Contents c);
  const Contents contents;
};

/// All that are linked in, by the hash of their PTX; null where there is none.
const Translation* find_translation(uint64_t ptx_hash);

}  // namespace qlora::emulation
