#include "exporter/shard_writer.h"

#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/error.h"
#include "io/atomic_file.h"
#include "io/foreign_text.h"
#include "io/safetensors_header.h"

namespace qlora::exporter {
namespace {

namespace fs = std::filesystem;

// What every loader expects: a file without it is refused by some.
io::Metadata metadata() {
  return {{"format", "pt"}};
}

std::string shard_name(size_t shard, size_t count) {
  if (count == 1) return "model.safetensors";
  return fmt::format("model-{:05}-of-{:05}.safetensors", shard + 1, count);
}

}  // namespace

uint64_t parse_bytes(const std::string& text, std::string_view name) {
  static const std::map<std::string, double> kUnits = {
      {"", 1},      {"B", 1},        {"KB", 1e3},     {"MB", 1e6},     {"GB", 1e9},
      {"TB", 1e12}, {"KiB", 0x1p10}, {"MiB", 0x1p20}, {"GiB", 0x1p30}, {"TiB", 0x1p40}};
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const std::string_view rest(end, static_cast<size_t>(text.data() + text.size() - end));
  const size_t blank = rest.find_first_not_of(' ');
  const auto unit = kUnits.find(std::string(blank == rest.npos ? "" : rest.substr(blank)));
  const double bytes = unit == kUnits.end() ? 0 : number * unit->second;
  QLORA_CHECK(
      error == std::errc() && bytes >= 1 && bytes < 0x1p62, ConfigError,
      "[export] {} is {}, allowed: a number with B, KB, MB, GB, TB (powers of 1000) or KiB, "
      "MiB, GiB, TiB, as in 5GB",
      name, io::quote(text));
  return static_cast<uint64_t>(bytes);
}

std::vector<std::vector<size_t>> plan_shards(
    const std::vector<io::SafetensorsWriter::Entry>& tensors, uint64_t max_shard_bytes) {
  std::vector<std::vector<size_t>> shards(1);
  uint64_t filled = 0;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const uint64_t bytes = io::tensor_bytes(tensors[i]);
    if (!shards.back().empty() && bytes > max_shard_bytes - std::min(filled, max_shard_bytes)) {
      shards.emplace_back();
      filled = 0;
    }
    shards.back().push_back(i);
    filled += bytes;
  }
  return shards;
}

ShardWriter::ShardWriter(fs::path folder, std::vector<io::SafetensorsWriter::Entry> layout,
                         uint64_t max_shard_bytes)
    : folder_(std::move(folder)) {
  const auto plan = plan_shards(layout, max_shard_bytes);
  for (size_t s = 0; s < plan.size(); ++s) {
    Shard shard{.file = shard_name(s, plan.size())};
    for (const size_t i : plan[s]) {
      QLORA_CHECK(shard_of_.emplace(layout[i].name, s).second, ValueError,
                  "[export] tensor {} stands twice in what is to be written",
                  io::quote(layout[i].name));
      total_bytes_ += io::tensor_bytes(layout[i]);
      shard.layout.push_back(std::move(layout[i]));
    }
    shards_.push_back(std::move(shard));
  }
}

void ShardWriter::write(std::string_view name, std::span<const std::byte> bytes) {
  const auto found = shard_of_.find(name);
  QLORA_CHECK(found != shard_of_.end(), ValueError, "[export] tensor {} is not in the layout",
              io::quote(name));
  Shard& shard = shards_[found->second];
  QLORA_CHECK(shard.written < shard.layout.size(), ValueError,
              "[export] tensor {} is written twice", io::quote(name));
  if (!shard.writer) {
    shard.writer =
        std::make_unique<io::SafetensorsWriter>(folder_ / shard.file, shard.layout, metadata());
  }
  shard.writer->write(name, bytes);
  if (++shard.written < shard.layout.size()) return;
  shard.writer->commit();
  shard.writer.reset();
}

std::vector<std::string> ShardWriter::finish() {
  std::vector<std::string> files;
  for (Shard& shard : shards_) {
    if (shard.layout.empty()) {
      io::SafetensorsWriter(folder_ / shard.file, {}, metadata()).commit();
    } else if (shard.writer || shard.written == 0) {
      if (!shard.writer) {
        shard.writer =
            std::make_unique<io::SafetensorsWriter>(folder_ / shard.file, shard.layout, metadata());
      }
      shard.writer->commit();  // says which tensor is missing
      shard.writer.reset();
    }
    files.push_back(shard.file);
  }
  if (shards_.size() == 1) return files;
  nlohmann::json map = nlohmann::json::object();
  for (const auto& [name, shard] : shard_of_) map[name] = shards_[shard].file;
  const nlohmann::json index = {{"metadata", {{"total_size", total_bytes_}}}, {"weight_map", map}};
  files.push_back("model.safetensors.index.json");
  io::write_file_atomic(folder_ / files.back(), index.dump(2) + "\n");
  return files;
}

}  // namespace qlora::exporter
