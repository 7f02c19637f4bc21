#include "tests/emulation/runtime/fatbin.h"

#include <cstring>

namespace qlora::emulation {
namespace {

constexpr uint32_t kWrapperMagic = 0x466243B1, kFatbinMagic = 0xBA55ED50;
constexpr uint16_t kPtxEntry = 1;

struct Wrapper {
  uint32_t magic, version;
  const char* data;
};
struct FatbinHeader {
  uint32_t magic;
  uint16_t version, header_bytes;
  uint64_t bytes;
};

template <class T>
T load(const char* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

}  // namespace

std::string_view find_ptx(const void* wrapper, int capability) {
  const auto outer = load<Wrapper>(static_cast<const char*>(wrapper));
  if (outer.magic != kWrapperMagic) return {};
  const auto header = load<FatbinHeader>(outer.data);
  if (header.magic != kFatbinMagic) return {};
  const char* entry = outer.data + header.header_bytes;
  const char* const end = entry + header.bytes;
  std::string_view found;
  int best = 0;
  while (entry < end) {
    const auto kind = load<uint16_t>(entry);
    const auto entry_header = load<uint32_t>(entry + 4);
    const auto bytes = load<uint64_t>(entry + 8);
    const auto of_entry = static_cast<int>(load<uint32_t>(entry + 28));
    if (kind == kPtxEntry && of_entry <= capability && of_entry > best) {
      best = of_entry;
      found = {entry + entry_header, bytes};
      found = found.substr(0, found.find_last_not_of('\0') + 1);
    }
    entry += entry_header + bytes;
  }
  return found;
}

uint64_t hash_of(std::string_view text) {
  uint64_t value = 0xCBF29CE484222325;
  for (const char c : text) value = (value ^ static_cast<unsigned char>(c)) * 0x100000001B3;
  return value;
}

}  // namespace qlora::emulation
