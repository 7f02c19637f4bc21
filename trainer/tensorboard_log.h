#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace qlora::trainer {

/// How the names of event files begin.
inline constexpr const char* kEventFilePrefix = "events.out.tfevents.";

struct Scalar {
  std::string_view tag;
  double value;
};

/// Writes one TensorBoard event file.
///   Format    records of {length u64, masked CRC-32C of it, Event, masked CRC-32C of that}, little
///             endian; Event and Summary are protobuf messages with few enough fields to write here
///   Source    TFRecord in tensorflow/core/lib/io/record_writer.h; tensorflow/core/util/event.proto
class TensorboardLog {
 public:
  /// Makes `folder` and in it a file named by time, host and process.
  ///   first_step  tells TensorBoard to forget what earlier files say about it and later steps
  ///   throws      IoError
  TensorboardLog(const std::filesystem::path& folder, int64_t first_step);
  ~TensorboardLog();
  TensorboardLog(const TensorboardLog&) = delete;
  TensorboardLog& operator=(const TensorboardLog&) = delete;

  /// One event with all scalars; visible at once. Throws IoError.
  void add(int64_t step, std::span<const Scalar> scalars);

  const std::filesystem::path& path() const { return path_; }

 private:
  void write_event(const std::string& event);

  std::filesystem::path path_;
  int file_ = -1;
};

/// CRC-32C (Castagnoli), and the form in which TFRecord stores it.
uint32_t crc32c(std::string_view bytes);
uint32_t masked_crc32c(std::string_view bytes);

}  // namespace qlora::trainer
