#include "tests/emulation/device/translated.h"

#include <map>
#include <utility>

namespace qlora::emulation {
namespace {

std::map<uint64_t, const Translation*>& translations() {
  static std::map<uint64_t, const Translation*> all;
  return all;
}

}  // namespace

Translation::Translation(Contents c) : contents(std::move(c)) {
  translations()[contents.ptx_hash] = this;
}

const Translation* find_translation(uint64_t ptx_hash) {
  const auto found = translations().find(ptx_hash);
  return found == translations().end() ? nullptr : found->second;
}

}  // namespace qlora::emulation
