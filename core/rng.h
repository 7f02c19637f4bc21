#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "core/host_device.h"

namespace qlora {

struct PhiloxBlock {
  uint32_t word[4];
};

/// Four random words for a counter; nothing is carried from call to call, so that element i of a
/// tensor gets the same numbers whoever computes it.
///   counter   words 0 and 1 of the generator's counter, low word first
///   stream    words 2 and 3: independent sequences of one seed
///   seed      the key, low word first
///   Source    Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC 2011: Philox4x32-10
QLORA_HD PhiloxBlock philox4x32(uint64_t counter, uint64_t stream, uint64_t seed) {
  uint32_t x0 = static_cast<uint32_t>(counter), x1 = static_cast<uint32_t>(counter >> 32);
  uint32_t x2 = static_cast<uint32_t>(stream), x3 = static_cast<uint32_t>(stream >> 32);
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * x0;
    const uint64_t p1 = uint64_t{0xCD9E8D57u} * x2;
    x0 = static_cast<uint32_t>(p1 >> 32) ^ x1 ^ k0;
    x1 = static_cast<uint32_t>(p1);
    x2 = static_cast<uint32_t>(p0 >> 32) ^ x3 ^ k1;
    x3 = static_cast<uint32_t>(p0);
    k0 += 0x9E3779B9u;  // the golden ratio
    k1 += 0xBB67AE85u;  // sqrt(3) - 1
  }
  return {{x0, x1, x2, x3}};
}

/// A word as a float in [0, 1), one of 2^24 equally spaced values. Exact.
QLORA_HD float unit_float(uint32_t word) {
  return static_cast<float>(word >> 8) * 0x1p-24f;
}

/// A sequence of random numbers whose place is three integers, so that a checkpoint holds it.
///   Numerics  words, uniform, below and shuffle are the same on every machine; normal is within
///             the error of the C library's log and cos
class Rng {
 public:
  struct State {
    uint64_t seed = 0;
    uint64_t stream = 0;
    uint64_t drawn_words = 0;  // of 32 bits
    bool operator==(const State&) const = default;
  };

  explicit Rng(uint64_t seed, uint64_t stream = 0) : state_{seed, stream, 0} {}

  uint32_t next_u32();
  uint64_t next_u64();         // two words, the earlier one low
  double uniform();            // [0, 1), 53 random bits; two words
  double normal();             // mean 0, variance 1 (Box and Muller); four words
  uint64_t below(uint64_t n);  // [0, n) without bias; ValueError if n is 0

  /// Every order is equally likely (Fisher and Yates).
  template <class T>
  void shuffle(std::vector<T>& items) {
    for (uint64_t left = items.size(); left > 1; --left) {
      std::swap(items[left - 1], items[below(left)]);
    }
  }

  State state() const { return state_; }
  void restore(const State& state);

 private:
  State state_;
  PhiloxBlock block_ = {};  // that of drawn_words / 4, valid inside a block
};

}  // namespace qlora
