#pragma once

#include <cstdint>
#include <cstring>
#include <string_view>

namespace qlora::data {

/// Mixes eight bytes at a time (the multiply-fold of wyhash): short keys, no adversary.
inline uint64_t mix(uint64_t a, uint64_t b) {
  const auto product = static_cast<unsigned __int128>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

inline uint64_t hash_bytes(std::string_view text) {
  uint64_t hash = 0x9E3779B97F4A7C15u ^ text.size();
  size_t at = 0;
  for (; at + 8 <= text.size(); at += 8) {
    uint64_t word;
    std::memcpy(&word, text.data() + at, 8);
    hash = mix(hash ^ word, 0xD6E8FEB86659FD93u);
  }
  if (at < text.size()) {
    uint64_t word = 0;
    std::memcpy(&word, text.data() + at, text.size() - at);
    hash = mix(hash ^ word, 0xA0761D6478BD642Fu);
  }
  return hash ^ hash >> 32;
}

inline uint64_t hash_pair(uint64_t key) {
  const uint64_t hash = mix(key ^ 0x9E3779B97F4A7C15u, 0xD6E8FEB86659FD93u);
  return hash ^ hash >> 32;
}

}  // namespace qlora::data
