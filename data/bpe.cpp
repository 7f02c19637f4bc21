#include "data/bpe.h"

#include <fmt/format.h>

#include <bit>

#include "data/bpe_encoder.h"
#include "data/utf8.h"

namespace qlora::data {
namespace {

struct ByteAlphabet {
  std::array<char32_t, 256> characters{};
  std::array<int16_t, 0x144> bytes{};  // by character; -1: none

  ByteAlphabet() {
    bytes.fill(-1);
    char32_t next = 0x100;  // bytes that do not print get the characters from U+0100 on
    for (int b = 0; b < 256; ++b) {
      const bool prints = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
      characters[b] = prints ? static_cast<char32_t>(b) : next++;
      bytes[characters[b]] = static_cast<int16_t>(b);
    }
  }
};

const ByteAlphabet& byte_alphabet() {
  static const ByteAlphabet alphabet;
  return alphabet;
}

}  // namespace

char32_t byte_level_character(uint8_t byte) {
  return byte_alphabet().characters[byte];
}

std::optional<uint8_t> byte_level_byte(char32_t character) {
  const auto& bytes = byte_alphabet().bytes;
  if (character >= bytes.size() || bytes[character] < 0) return std::nullopt;
  return static_cast<uint8_t>(bytes[character]);
}

Bpe::Bpe(Vocabulary vocabulary, BpeRules rules)
    : vocabulary_(std::move(vocabulary)),
      rules_(std::move(rules)),
      characters_(vocabulary_),
      seams_(vocabulary_, characters_, rules_) {
  index_merges();
  index_bytes();
}

Bpe::~Bpe() = default;

void Bpe::index_merges() {
  pairs_.resize(std::bit_ceil(2 * rules_.merges.size() + 2));
  for (size_t rank = 0; rank < rules_.merges.size(); ++rank) {
    const auto [left, right, result] = rules_.merges[rank];
    const uint64_t key = pair_key(left, right);
    size_t slot = pair_slot(key);
    while (pairs_[slot].key != UINT64_MAX && pairs_[slot].key != key) {
      slot = (slot + 1) & (pairs_.size() - 1);
    }
    // The last of equals, as the reference.
    pairs_[slot] = {key, static_cast<int32_t>(rank), result};
  }
}

void Bpe::index_bytes() {
  has_all_bytes_ = true;
  for (int b = 0; b < 256; ++b) {
    byte_ids_[b] = characters_.find(byte_level_character(static_cast<uint8_t>(b)));
    has_all_bytes_ = has_all_bytes_ && byte_ids_[b] >= 0;
    fallback_ids_[b] = vocabulary_.find(fmt::format("<0x{:02X}>", b)).value_or(-1);
  }
}

Bpe::Lease Bpe::encoder() const {
  std::unique_ptr<Encoder> encoder;
  {
    const std::lock_guard lock(mutex_);
    if (!free_encoders_.empty()) {
      encoder = std::move(free_encoders_.back());
      free_encoders_.pop_back();
    }
  }
  if (!encoder) encoder = std::make_unique<Encoder>(*this);
  return {*this, std::move(encoder)};
}

Bpe::Lease::Lease(const Bpe& bpe, std::unique_ptr<Encoder> encoder)
    : bpe_(bpe), encoder_(std::move(encoder)) {}

Bpe::Lease::~Lease() {
  const std::lock_guard lock(bpe_.mutex_);
  bpe_.free_encoders_.push_back(std::move(encoder_));
}

void Bpe::Lease::encode(std::string_view word, std::vector<int32_t>& ids) {
  encoder_->encode(word, ids);
}

}  // namespace qlora::data
