#include "core/out_of_memory.h"

#include <charconv>
#include <cmath>
#include <new>
#include <string_view>

namespace qlora {
namespace {

constexpr std::string_view kHost = "DefaultCPUAllocator: can't allocate memory";
constexpr std::string_view kDevice[] = {"CUDA out of memory", "cudaErrorMemoryAllocation",
                                        "CUBLAS_STATUS_ALLOC_FAILED"};

/// The number behind "allocate ", in bytes: "12345 bytes", "2.00 GiB".
std::optional<uint64_t> wanted(std::string_view text) {
  constexpr std::string_view kVerb = " to allocate ";
  const size_t at = text.find(kVerb);
  if (at == text.npos) return std::nullopt;
  text.remove_prefix(at + kVerb.size());
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || !(number >= 0)) return std::nullopt;
  const std::string_view unit = text.substr(static_cast<size_t>(end - text.data()));
  double bytes = number;
  for (const auto& [name, factor] :
       {std::pair{" KiB", 0x1p10}, {" MiB", 0x1p20}, {" GiB", 0x1p30}}) {
    if (unit.starts_with(name)) bytes = number * factor;
  }
  if (bytes >= 0x1p63) return std::nullopt;
  return static_cast<uint64_t>(std::llround(bytes));
}

}  // namespace

std::optional<OutOfMemory> as_out_of_memory(const std::exception& error) {
  const std::string_view text = error.what();
  for (const std::string_view words : kDevice) {
    if (text.find(words) != text.npos) return OutOfMemory{true, wanted(text)};
  }
  if (text.find(kHost) != text.npos) return OutOfMemory{false, wanted(text)};
  if (dynamic_cast<const std::bad_alloc*>(&error) != nullptr) return OutOfMemory{};
  return std::nullopt;
}

}  // namespace qlora
