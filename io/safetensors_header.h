#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "io/mapped_file.h"
#include "io/safetensors.h"

namespace qlora::io {

/// Longest header that the reference library accepts.
inline constexpr uint64_t kSafetensorsHeaderLimitBytes = 100'000'000;

/// Reads and checks the header of one mapped file.
///   tensors   receives views into the file, in the order of their data
///   throws    FormatError for every rule of the format that the file breaks
void parse_safetensors(const MappedFile& file, std::vector<TensorView>& tensors,
                       Metadata& metadata);

/// Header length, JSON and padding of a file that holds `layout`, in that order.
std::string safetensors_header(const std::vector<SafetensorsWriter::Entry>& layout,
                               const Metadata& metadata);

/// Bytes of a tensor.
///   throws    ValueError for a negative dimension or a product above 2^62
uint64_t tensor_bytes(const SafetensorsWriter::Entry& entry);

/// Shards of model.safetensors.index.json, each once, by name.
struct ShardIndex {
  std::vector<std::filesystem::path> files;
  std::map<std::string, std::string> file_of;  // tensor name -> shard name
};
ShardIndex read_shard_index(const std::filesystem::path& index_json);

}  // namespace qlora::io
