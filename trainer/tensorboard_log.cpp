#include "trainer/tensorboard_log.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cstring>

#include "core/error.h"

namespace qlora::trainer {
namespace {

enum class WireType : uint8_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

void put_varint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  out += static_cast<char>(value);
}

void put_key(std::string& out, uint32_t field, WireType type) {
  put_varint(out, field << 3 | static_cast<uint32_t>(type));
}

template <class T>
void put_little_endian(std::string& out, T value) {
  static_assert(std::endian::native == std::endian::little);
  char bytes[sizeof value];
  std::memcpy(bytes, &value, sizeof value);
  out.append(bytes, sizeof value);
}

void put_double(std::string& out, uint32_t field, double value) {
  put_key(out, field, WireType::kFixed64);
  put_little_endian(out, value);
}

void put_float(std::string& out, uint32_t field, float value) {
  put_key(out, field, WireType::kFixed32);
  put_little_endian(out, value);
}

void put_integer(std::string& out, uint32_t field, int64_t value) {
  put_key(out, field, WireType::kVarint);
  put_varint(out, static_cast<uint64_t>(value));
}

void put_bytes(std::string& out, uint32_t field, std::string_view bytes) {
  put_key(out, field, WireType::kBytes);
  put_varint(out, bytes.size());
  out += bytes;
}

double now_seconds() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration<double>(now).count();
}

/// Event{wall_time = 1, step = 2}, open for one more field.
std::string event_at(int64_t step) {
  std::string event;
  put_double(event, 1, now_seconds());
  put_integer(event, 2, step);
  return event;
}

std::string host_name() {
  char name[256] = {};
  return gethostname(name, sizeof name - 1) == 0 && name[0] != 0 ? name : "localhost";
}

}  // namespace

uint32_t crc32c(std::string_view bytes) {
  static const auto kTable = [] {
    std::array<uint32_t, 256> table{};
    for (uint32_t i = 0; i < 256; ++i) {
      uint32_t crc = i;
      for (int bit = 0; bit < 8; ++bit) crc = crc & 1 ? crc >> 1 ^ 0x82F63B78u : crc >> 1;
      table[i] = crc;
    }
    return table;
  }();
  uint32_t crc = 0xFFFFFFFFu;
  for (const char c : bytes) crc = kTable[(crc ^ static_cast<uint8_t>(c)) & 0xFF] ^ crc >> 8;
  return ~crc;
}

uint32_t masked_crc32c(std::string_view bytes) {
  return std::rotr(crc32c(bytes), 15) + 0xA282EAD8u;
}

TensorboardLog::TensorboardLog(const std::filesystem::path& folder, int64_t first_step) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  QLORA_CHECK(!error, IoError, "[log] cannot make {}: {}", folder.string(), error.message());
  const auto seconds = static_cast<int64_t>(now_seconds());
  for (int number = 0; file_ < 0; ++number) {
    path_ = folder /
            fmt::format("{}{}.{}.{}.{}", kEventFilePrefix, seconds, host_name(), getpid(), number);
    file_ = open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    QLORA_CHECK(file_ >= 0 || errno == EEXIST, IoError, "[log] cannot make {}: {}", path_.string(),
                std::strerror(errno));
  }
  std::string version;  // wall_time, file_version = 3
  put_double(version, 1, now_seconds());
  put_bytes(version, 3, "brain.Event:2");
  write_event(version);
  std::string session;  // SessionLog{status = START}, as field 7: purges later steps of other files
  put_integer(session, 1, 1);
  std::string start = event_at(first_step);
  put_bytes(start, 7, session);
  write_event(start);
}

TensorboardLog::~TensorboardLog() {
  close(file_);
}

void TensorboardLog::add(int64_t step, std::span<const Scalar> scalars) {
  std::string summary;  // Summary{repeated Value{tag = 1, simple_value = 2} = 1}
  for (const Scalar& scalar : scalars) {
    std::string value;
    put_bytes(value, 1, scalar.tag);
    put_float(value, 2, static_cast<float>(scalar.value));
    put_bytes(summary, 1, value);
  }
  std::string event = event_at(step);
  put_bytes(event, 5, summary);
  write_event(event);
}

void TensorboardLog::write_event(const std::string& event) {
  std::string record;
  put_little_endian(record, static_cast<uint64_t>(event.size()));
  put_little_endian(record, masked_crc32c(record));
  record += event;
  put_little_endian(record, masked_crc32c(event));
  for (size_t done = 0; done < record.size();) {
    const ssize_t written = write(file_, record.data() + done, record.size() - done);
    if (written < 0 && errno == EINTR) continue;
    QLORA_CHECK(written > 0, IoError, "[log] cannot write {}: {}", path_.string(),
                std::strerror(errno));
    done += static_cast<size_t>(written);
  }
}

}  // namespace qlora::trainer
