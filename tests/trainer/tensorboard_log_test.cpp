#include "trainer/tensorboard_log.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/error.h"
#include "tests/support/temporary_folder.h"

namespace qlora::trainer {
namespace {

using testing::TemporaryFolder;

/// A decoder of its own: bitwise CRC-32C, and any protobuf message as its fields.
uint32_t slow_crc32c(std::string_view bytes) {
  uint32_t crc = 0xFFFFFFFF;
  for (const char c : bytes) {
    crc ^= static_cast<uint8_t>(c);
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0x82F63B78 : 0);
  }
  return ~crc;
}

template <class T>
T take(std::string_view& bytes) {
  if (bytes.size() < sizeof(T)) throw std::runtime_error("cut short");
  T value;
  std::copy_n(bytes.begin(), sizeof value, reinterpret_cast<char*>(&value));
  bytes.remove_prefix(sizeof value);
  return value;
}

uint64_t take_varint(std::string_view& bytes) {
  uint64_t value = 0;
  for (int shift = 0;; shift += 7) {
    const auto byte = take<uint8_t>(bytes);
    value |= static_cast<uint64_t>(byte & 0x7F) << shift;
    if (byte < 0x80) return value;
  }
}

struct Value {
  uint64_t number = 0;  // varints, and the bits of fixed values
  std::string bytes;
};
using Message = std::multimap<uint32_t, Value>;

Message decode(std::string_view bytes) {
  Message message;
  while (!bytes.empty()) {
    const uint64_t key = take_varint(bytes);
    Value value;
    switch (key & 7) {
      case 0:
        value.number = take_varint(bytes);
        break;
      case 1:
        value.number = take<uint64_t>(bytes);
        break;
      case 5:
        value.number = take<uint32_t>(bytes);
        break;
      case 2: {
        const uint64_t size = take_varint(bytes);
        if (size > bytes.size()) throw std::runtime_error("cut short");
        value.bytes = bytes.substr(0, size);
        bytes.remove_prefix(size);
        break;
      }
      default:
        throw std::runtime_error("wire type");
    }
    message.emplace(static_cast<uint32_t>(key >> 3), value);
  }
  return message;
}

std::vector<Message> read_events(const std::filesystem::path& path) {
  const std::string content = testing::read_text(path);
  std::string_view bytes = content;
  const auto unmask = [](uint32_t masked) { return std::rotl(masked - 0xA282EAD8u, 15); };
  std::vector<Message> events;
  while (!bytes.empty()) {
    const std::string_view length_bytes = bytes.substr(0, 8);
    const auto length = take<uint64_t>(bytes);
    EXPECT_EQ(unmask(take<uint32_t>(bytes)), slow_crc32c(length_bytes));
    const std::string_view event = bytes.substr(0, length);
    bytes.remove_prefix(length);
    EXPECT_EQ(unmask(take<uint32_t>(bytes)), slow_crc32c(event));
    events.push_back(decode(event));
  }
  return events;
}

TEST(TensorboardLog, ChecksumIsCastagnolis) {
  // RFC 3720, B.4.
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8A9136AAu);
  EXPECT_EQ(crc32c(std::string(32, '\xFF')), 0x62A8AB43u);
  EXPECT_EQ(crc32c("123456789"), 0xE3069283u);
  EXPECT_EQ(crc32c(""), 0u);
}

TEST(TensorboardLog, FileDecodesToWhatWasWritten) {
  const TemporaryFolder folder;
  std::filesystem::path path;
  {
    TensorboardLog log(folder / "runs", 301);
    path = log.path();
    const Scalar first[] = {{"train/loss", 1.25}, {"train/learning_rate", 2e-4}};
    const Scalar second[] = {{"eval/loss", -0.5}};
    log.add(301, first);
    log.add(1'000'000'000'000, second);
    EXPECT_EQ(read_events(path).size(), 4u);  // visible before the file is closed
  }
  EXPECT_TRUE(path.filename().string().starts_with("events.out.tfevents."));
  const auto events = read_events(path);
  ASSERT_EQ(events.size(), 4u);
  EXPECT_EQ(events[0].find(3)->second.bytes, "brain.Event:2");
  const double wall_time = std::bit_cast<double>(events[0].find(1)->second.number);
  EXPECT_GT(wall_time, 1.7e9);
  EXPECT_LT(wall_time, 1e11);

  EXPECT_EQ(events[1].find(2)->second.number, 301u);
  EXPECT_EQ(decode(events[1].find(7)->second.bytes).find(1)->second.number, 1u);  // START

  EXPECT_EQ(events[2].find(2)->second.number, 301u);
  const Message summary = decode(events[2].find(5)->second.bytes);
  ASSERT_EQ(summary.count(1), 2u);
  auto value = summary.find(1);
  const Message loss = decode(value->second.bytes), rate = decode(std::next(value)->second.bytes);
  EXPECT_EQ(loss.find(1)->second.bytes, "train/loss");
  EXPECT_EQ(std::bit_cast<float>(static_cast<uint32_t>(loss.find(2)->second.number)), 1.25f);
  EXPECT_EQ(rate.find(1)->second.bytes, "train/learning_rate");
  EXPECT_EQ(std::bit_cast<float>(static_cast<uint32_t>(rate.find(2)->second.number)), 2e-4f);

  EXPECT_EQ(events[3].find(2)->second.number, 1'000'000'000'000u);
}

TEST(TensorboardLog, TwoFilesOfOneSecondAreTwoFiles) {
  const TemporaryFolder folder;
  const TensorboardLog one(folder.path(), 1), two(folder.path(), 1);
  EXPECT_NE(one.path(), two.path());
}

TEST(TensorboardLog, AFolderThatCannotBeIsAnIoError) {
  const TemporaryFolder folder;
  testing::write_text(folder / "file", "x");
  EXPECT_THROW(TensorboardLog(folder / "file" / "runs", 1), IoError);
  EXPECT_THROW(TensorboardLog("/proc/no-files-here", 1), IoError);
}

}  // namespace
}  // namespace qlora::trainer
