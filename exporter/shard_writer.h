#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/safetensors.h"

namespace qlora::exporter {

/// "5GB" and "500MB" count in powers of 1000, "2GiB" in powers of 1024, a bare number in bytes.
///   name      of the option, for messages
///   throws    ConfigError for anything else, or less than one byte
uint64_t parse_bytes(const std::string& text, std::string_view name = "max_shard_size");

/// Numbers of the tensors that go into each shard, in their order. A tensor is never split.
std::vector<std::vector<size_t>> plan_shards(
    const std::vector<io::SafetensorsWriter::Entry>& tensors, uint64_t max_shard_bytes);

/// Writes model.safetensors, or model-0000i-of-0000n.safetensors with model.safetensors.index.json,
/// as transformers names them. Tensors are handed in one by one, in any order, and not kept.
///   Example   ShardWriter w(folder, layout, parse_bytes("5GB")); w.write(name, bytes); w.finish();
class ShardWriter {
 public:
  /// layout   names, types and shapes of all tensors, in the order of the model
  /// throws   ValueError for a name that is empty or doubled; IoError
  ShardWriter(std::filesystem::path folder, std::vector<io::SafetensorsWriter::Entry> layout,
              uint64_t max_shard_bytes);

  /// throws ValueError for an unknown name, a second write or a wrong byte count; IoError
  void write(std::string_view name, std::span<const std::byte> bytes);

  /// Writes the index where there is more than one shard.
  ///   returns   the names of the files written
  ///   throws    ValueError naming a tensor that was not written
  std::vector<std::string> finish();

  uint64_t total_bytes() const { return total_bytes_; }

 private:
  struct Shard {
    std::string file;
    std::vector<io::SafetensorsWriter::Entry> layout;
    std::unique_ptr<io::SafetensorsWriter>
        writer;  // opened by the first tensor, closed by the last
    size_t written = 0;
  };

  std::filesystem::path folder_;
  std::vector<Shard> shards_;
  std::map<std::string, size_t, std::less<>> shard_of_;
  uint64_t total_bytes_ = 0;
};

}  // namespace qlora::exporter
