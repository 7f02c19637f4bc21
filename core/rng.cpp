#include "core/rng.h"

#include <cmath>
#include <numbers>

#include "core/error.h"

namespace qlora {

uint32_t Rng::next_u32() {
  const uint64_t place = state_.drawn_words % 4;
  if (place == 0) block_ = philox4x32(state_.drawn_words / 4, state_.stream, state_.seed);
  ++state_.drawn_words;
  return block_.word[place];
}

uint64_t Rng::next_u64() {
  const uint64_t low = next_u32();
  return low | static_cast<uint64_t>(next_u32()) << 32;
}

double Rng::uniform() {
  return static_cast<double>(next_u64() >> 11) * 0x1p-53;
}

double Rng::normal() {
  const double radius = std::sqrt(-2.0 * std::log1p(-uniform()));  // 1 - u is in (0, 1]
  return radius * std::cos(2.0 * std::numbers::pi * uniform());
}

// Lemire, Fast random integer generation in an interval, 2019: the high word of a product with a
// random word is even but for a few low words, which are drawn again.
uint64_t Rng::below(uint64_t n) {
  QLORA_CHECK(n > 0, ValueError, "[rng] below(0) has no answer, allowed: at least 1");
  const uint64_t uneven = (0 - n) % n;  // 2^64 mod n
  while (true) {
    const unsigned __int128 product = static_cast<unsigned __int128>(next_u64()) * n;
    if (static_cast<uint64_t>(product) >= uneven) return static_cast<uint64_t>(product >> 64);
  }
}

void Rng::restore(const State& state) {
  state_ = state;
  block_ = philox4x32(state_.drawn_words / 4, state_.stream, state_.seed);
}

}  // namespace qlora
