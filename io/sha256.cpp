#include "io/sha256.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <openssl/evp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <vector>

#include "core/error.h"
#include "core/parallel.h"

namespace qlora::io {
namespace {

constexpr size_t kReadBytes = size_t{1} << 20;
using Digest = std::array<uint8_t, 32>;

std::string to_hex(const Digest& digest) {
  std::string text;
  for (const uint8_t byte : digest) text += fmt::format("{:02x}", byte);
  return text;
}

/// A file that is open for reading; hashing reads it by pread, so that no page counts as ours.
class Input {
 public:
  explicit Input(const std::filesystem::path& path)
      : path_(path), descriptor_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (descriptor_ < 0) fail(errno);
    struct stat status {};
    if (::fstat(descriptor_, &status) != 0) fail(errno);
    size_ = static_cast<uint64_t>(status.st_size);
  }
  ~Input() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }
  Input(const Input&) = delete;
  Input& operator=(const Input&) = delete;

  uint64_t size() const { return size_; }

  /// Feeds [begin, end) to the hash; the error number, or 0. A shorter file is ENODATA.
  int feed(uint64_t begin, uint64_t end, Sha256& hash) const {
    std::vector<std::byte> buffer(std::min<uint64_t>(kReadBytes, end - begin));
    while (begin < end) {
      const auto most = std::min<uint64_t>(buffer.size(), end - begin);
      const ssize_t got = ::pread(descriptor_, buffer.data(), most, static_cast<off_t>(begin));
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) return got < 0 ? errno : ENODATA;
      hash.update(std::span(buffer).first(static_cast<size_t>(got)));
      begin += static_cast<uint64_t>(got);
    }
    return 0;
  }

  [[noreturn]] void fail(int error) const {
    throw IoError(fmt::format("[io] {}: cannot be read: {}", path_.string(), std::strerror(error)));
  }

 private:
  std::filesystem::path path_;
  int descriptor_;
  uint64_t size_ = 0;
};

}  // namespace

struct Sha256::State {
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  ~State() { EVP_MD_CTX_free(context); }
};

Sha256::Sha256() : state_(std::make_unique<State>()) {
  // libcrypto fails here only without memory or without its default provider.
  if (state_->context == nullptr ||
      EVP_DigestInit_ex(state_->context, EVP_sha256(), nullptr) != 1) {
    throw std::bad_alloc();
  }
}
Sha256::~Sha256() = default;
Sha256::Sha256(Sha256&&) noexcept = default;
Sha256& Sha256::operator=(Sha256&&) noexcept = default;

void Sha256::update(std::span<const std::byte> bytes) {
  EVP_DigestUpdate(state_->context, bytes.data(), bytes.size());
}
void Sha256::update(std::string_view text) {
  EVP_DigestUpdate(state_->context, text.data(), text.size());
}

std::string Sha256::hex() {
  Digest digest{};
  EVP_DigestFinal_ex(state_->context, digest.data(), nullptr);
  return to_hex(digest);
}

std::string sha256_hex(std::span<const std::byte> bytes) {
  Sha256 hash;
  hash.update(bytes);
  return hash.hex();
}
std::string sha256_hex(std::string_view text) {
  return sha256_hex(std::as_bytes(std::span(text)));
}

std::string sha256_file(const std::filesystem::path& path) {
  const Input input(path);
  Sha256 hash;
  if (const int error = input.feed(0, input.size(), hash)) input.fail(error);
  return hash.hex();
}

std::string sha256_tree_file(const std::filesystem::path& path) {
  const Input input(path);
  const uint64_t pieces = (input.size() + kTreeHashPieceBytes - 1) / kTreeHashPieceBytes;
  std::vector<std::string> digests(pieces);
  std::atomic<int> error{0};
  parallel_for(static_cast<int64_t>(pieces), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end && error == 0; ++i) {
      const uint64_t from = static_cast<uint64_t>(i) * kTreeHashPieceBytes;
      Sha256 hash;
      if (const int failed = input.feed(
              from, std::min<uint64_t>(from + kTreeHashPieceBytes, input.size()), hash)) {
        error = failed;
      }
      digests[static_cast<size_t>(i)] = hash.hex();
    }
  });
  if (error != 0) input.fail(error);
  Sha256 root;
  root.update(fmt::format("{}\n", input.size()));
  for (const std::string& digest : digests) root.update(digest + "\n");
  return root.hex();
}

}  // namespace qlora::io
