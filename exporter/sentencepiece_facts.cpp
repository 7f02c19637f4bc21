#include "exporter/sentencepiece_facts.h"

#include <algorithm>
#include <cstdint>

#include "core/error.h"

namespace qlora::exporter {
namespace {

/// One member of a protocol buffer message: a number, or bytes.
struct Member {
  uint64_t number = 0;     // which member
  uint64_t value = 0;      // of a varint
  std::string_view bytes;  // of a text or a message
};

/// Walks over a message's members. Fixed-size numbers are skipped over.
class Members {
 public:
  Members(std::string_view message, const std::string& where) : rest_(message), where_(where) {}

  bool next(Member* member) {
    if (rest_.empty()) return false;
    const uint64_t tag = varint();
    *member = {.number = tag >> 3};
    switch (tag & 7) {
      case 0:
        member->value = varint();
        return true;
      case 1:
        take(8);
        return true;
      case 2:
        member->bytes = take(varint());
        return true;
      case 5:
        take(4);
        return true;
      default:
        fail();
    }
  }

 private:
  [[noreturn]] void fail() const {
    throw FormatError(fmt::format("[export] {} is damaged: it is no sentencepiece model", where_));
  }
  std::string_view take(uint64_t count) {
    if (count > rest_.size()) fail();
    const std::string_view part = rest_.substr(0, count);
    rest_.remove_prefix(count);
    return part;
  }
  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<uint8_t>(take(1)[0]);
      value |= static_cast<uint64_t>(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
    fail();
  }

  std::string_view rest_;
  const std::string& where_;
};

}  // namespace

bool SentencePieceFacts::is_user_defined(int id) const {
  return std::binary_search(user_defined.begin(), user_defined.end(), id);
}

SentencePieceFacts read_sentencepiece_facts(std::string_view model, const std::string& where) {
  // Member numbers: sentencepiece_model.proto. The model type is 1, unigram, where it is not said.
  constexpr uint64_t kPieces = 1, kTrainer = 2, kNormalizer = 3;
  constexpr uint64_t kPieceType = 3, kUserDefined = 4, kModelType = 3, kBpe = 2;
  constexpr uint64_t kAddDummyPrefix = 3, kRemoveExtraWhitespaces = 4;
  SentencePieceFacts facts;
  Members members(model, where);
  int pieces = 0;
  for (Member member; members.next(&member);) {
    Members inner(member.bytes, where);
    for (Member m;
         (member.number == kPieces || member.number == kTrainer || member.number == kNormalizer) &&
         inner.next(&m);) {
      if (member.number == kPieces && m.number == kPieceType && m.value == kUserDefined) {
        facts.user_defined.push_back(pieces);
      } else if (member.number == kTrainer && m.number == kModelType) {
        facts.is_bpe = m.value == kBpe;
      } else if (member.number == kNormalizer && m.number == kAddDummyPrefix) {
        facts.add_dummy_prefix = m.value != 0;
      } else if (member.number == kNormalizer && m.number == kRemoveExtraWhitespaces) {
        facts.remove_extra_whitespaces = m.value != 0;
      }
    }
    if (member.number == kPieces) ++pieces;
  }
  return facts;
}

}  // namespace qlora::exporter
