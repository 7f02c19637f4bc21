#include "io/safetensors.h"

#include <algorithm>

#include "core/error.h"
#include "core/nearest_name.h"
#include "io/float_convert.h"
#include "io/foreign_text.h"
#include "io/safetensors_header.h"

namespace qlora::io {
namespace fs = std::filesystem;
namespace {

constexpr const char* kIndex = "model.safetensors.index.json";

bool is_pickle(const fs::path& path) {
  const std::string extension = path.extension().string();
  return extension == ".bin" || extension == ".pt" || extension == ".pth" || extension == ".ckpt" ||
         extension == ".pkl";
}

[[noreturn]] void refuse_pickle(const fs::path& path) {
  throw FormatError(
      fmt::format("[io] {}: a pickle, which can run any code when it is read, so it is not read; "
                  "convert it to safetensors first",
                  path.string()));
}

/// The files that a path stands for; `index` is filled where there is one.
std::vector<fs::path> find_files(const fs::path& path, ShardIndex& index) {
  std::error_code error;
  if (!fs::is_directory(path, error)) {
    if (is_pickle(path)) refuse_pickle(path);
    return {path};
  }
  if (fs::exists(path / kIndex, error)) {
    index = read_shard_index(path / kIndex);
    return index.files;
  }
  for (const char* name : {"model.safetensors", "adapter_model.safetensors"}) {
    if (fs::exists(path / name, error)) return {path / name};
  }
  for (fs::directory_iterator it(path, error), end; !error && it != end; it.increment(error)) {
    if (is_pickle(it->path()) && it->path().stem().string().find("model") != std::string::npos) {
      refuse_pickle(it->path());
    }
  }
  throw IoError(
      fmt::format("[io] {}: holds none of {}, model.safetensors, adapter_model.safetensors",
                  path.string(), kIndex));
}

}  // namespace

std::string shape_text(std::span<const int64_t> shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

SafetensorsReader::SafetensorsReader(const fs::path& path) : path_(path) {
  ShardIndex index;
  for (const fs::path& file : find_files(path, index)) {
    add_file(file);
  }
  std::sort(tensors_.begin(), tensors_.end(),
            [](const TensorView& a, const TensorView& b) { return a.name < b.name; });
  for (size_t i = 1; i < tensors_.size(); ++i) {
    QLORA_CHECK(tensors_[i - 1].name != tensors_[i].name, FormatError,
                "[io] {}: two shards hold tensor {}", path_.string(), quote(tensors_[i].name));
  }
  for (const auto& [name, shard] : index.file_of) {
    QLORA_CHECK(find(name) != nullptr, FormatError,
                "[io] {}: {} places tensor {} in {}, which does not hold it", path_.string(),
                kIndex, quote(name), quote(shard));
  }
}

void SafetensorsReader::add_file(const fs::path& file) {
  files_.emplace_back(file);
  Metadata metadata;
  parse_safetensors(files_.back(), tensors_, metadata);
  if (files_.size() == 1) metadata_ = std::move(metadata);
}

const TensorView* SafetensorsReader::find(std::string_view name) const {
  const auto it = std::lower_bound(
      tensors_.begin(), tensors_.end(), name,
      [](const TensorView& tensor, std::string_view key) { return tensor.name < key; });
  return it != tensors_.end() && it->name == name ? &*it : nullptr;
}

const TensorView& SafetensorsReader::at(std::string_view name) const {
  if (const TensorView* tensor = find(name)) return *tensor;
  std::vector<std::string> names;
  for (const TensorView& tensor : tensors_) names.push_back(tensor.name);
  const auto nearest = nearest_name(name, names);
  throw FormatError(fmt::format("[io] {}: no tensor {}{}", path_.string(), quote(name),
                                nearest ? "; the nearest is " + quote(*nearest) : std::string()));
}

std::vector<fs::path> SafetensorsReader::files() const {
  std::vector<fs::path> paths;
  for (const MappedFile& file : files_) paths.push_back(file.path());
  return paths;
}

void SafetensorsReader::release(const TensorView& tensor) const {
  for (const MappedFile& file : files_) file.release(tensor.bytes);
}

void read_f32(const TensorView& tensor, int64_t first, int64_t count, float* out) {
  const int64_t size = tensor.element_count();
  QLORA_CHECK(first >= 0 && count >= 0 && first <= size && count <= size - first, ValueError,
              "[io] tensor {}: {} elements from element {} on asked for; it has {}",
              quote(tensor.name), count, first, size);
  convert_to_f32(tensor.dtype, tensor.bytes.data() + first * dtype_bytes(tensor.dtype), count, out);
}

}  // namespace qlora::io
