#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace qlora::io {

/// SHA-256 (FIPS 180-4) of bytes that arrive in pieces. libcrypto does the work: above 1 GB/s where
/// the processor has SHA instructions.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(Sha256&&) noexcept;
  Sha256& operator=(Sha256&&) noexcept;

  void update(std::span<const std::byte> bytes);
  void update(std::string_view text);
  std::string hex();  // 64 lower-case digits; ends the computation

 private:
  struct State;
  std::unique_ptr<State> state_;
};

std::string sha256_hex(std::span<const std::byte> bytes);
std::string sha256_hex(std::string_view text);

/// throws IoError where the file cannot be read
std::string sha256_file(const std::filesystem::path& path);

/// Hash of a whole file that threads share: SHA-256 over the size and the SHA-256 of each piece of
/// kTreeHashPieceBytes, in order. Independent of the thread count; not equal to sha256_file.
inline constexpr size_t kTreeHashPieceBytes = size_t{16} << 20;
std::string sha256_tree_file(const std::filesystem::path& path);

}  // namespace qlora::io
