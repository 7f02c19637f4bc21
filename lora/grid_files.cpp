#include "lora/grid_files.h"

#include <ATen/core/grad_mode.h>

#include <cstring>
#include <utility>
#include <vector>

#include "core/error.h"
#include "io/safetensors.h"
#include "lora/tensor_view.h"

namespace qlora::lora {
namespace {

using torch::Tensor;

struct NamedTensor {
  std::string name;
  Tensor value;  // shares memory with the grid's
};

std::vector<NamedTensor> state_of(const std::map<std::string, LinearGrid>& grids) {
  std::vector<NamedTensor> all;
  const auto add = [&](const std::string& name, const Tensor& value) {
    if (value.defined()) all.push_back({name, value.detach()});
  };
  for (const auto& [module, grid] : grids) {
    if (grid.held != nullptr) {
      add(module + ".scales", grid.held->scales);
      add(module + ".zeros", grid.held->zeros);
      add(module + ".factor", grid.held->factor);
    }
    if (grid.observer != nullptr) add(module + ".inputs", grid.observer->state());
  }
  return all;
}

void check_entry(const std::filesystem::path& file, const NamedTensor& wanted,
                 const io::TensorView* found) {
  QLORA_CHECK(found != nullptr, FormatError,
              "[qat] {} has no {}; it is not of a run with this section qat", file.string(),
              wanted.name);
  const io::DType dtype = file_dtype(wanted.value.scalar_type());
  QLORA_CHECK(found->dtype == dtype && found->shape == wanted.value.sizes().vec(), FormatError,
              "[qat] {} is {} {} in {}, allowed {} {}; it is not of a run with this section qat",
              wanted.name, io::dtype_name(found->dtype), io::shape_text(found->shape),
              file.string(), io::dtype_name(dtype), c10::str(wanted.value.sizes()));
  if (!wanted.value.is_floating_point()) return;
  const Tensor read = tensor_copy(*found);
  const bool is_scale = !wanted.name.ends_with(".inputs");
  QLORA_CHECK(read.isfinite().all().item<bool>() && (!is_scale || read.min().item<float>() > 0),
              FormatError,
              "[qat] {} of {} holds a number that is not finite{}; the file is damaged",
              wanted.name, file.string(), is_scale ? " and positive" : "");
}

}  // namespace

std::vector<Tensor> grid_state(const std::map<std::string, LinearGrid>& grids) {
  std::vector<Tensor> tensors;
  for (NamedTensor& named : state_of(grids)) tensors.push_back(std::move(named.value));
  return tensors;
}

bool has_grid_state(const std::map<std::string, LinearGrid>& grids) {
  return !state_of(grids).empty();
}

void write_grids(const std::filesystem::path& directory,
                 const std::map<std::string, LinearGrid>& grids) {
  const std::vector<NamedTensor> state = state_of(grids);
  if (state.empty()) return;
  std::vector<Tensor> contiguous;  // keeps copies alive
  std::vector<io::TensorView> views;
  for (const NamedTensor& named : state) {
    views.push_back(tensor_view(named.name, contiguous.emplace_back(named.value.contiguous())));
  }
  io::write_safetensors(directory / kGridFile, views, {{"format", "qlora training grids"}});
}

void read_grids(const std::filesystem::path& directory,
                const std::map<std::string, LinearGrid>& grids) {
  const at::NoGradGuard no_graph;
  const std::vector<NamedTensor> state = state_of(grids);
  if (state.empty()) return;
  const std::filesystem::path file = directory / kGridFile;
  QLORA_CHECK(std::filesystem::exists(file), IoError,
              "[qat] {} is not there, which holds the grids that the adapter was trained on; a "
              "checkpoint from before qat.start_step has none: name a later one",
              file.string());
  const io::SafetensorsReader reader(file);
  for (const NamedTensor& named : state) check_entry(file, named, reader.find(named.name));
  for (const NamedTensor& named : state) {
    const io::TensorView& view = reader.at(named.name);
    std::memcpy(named.value.mutable_data_ptr(), view.bytes.data(), view.bytes.size());
  }
}

}  // namespace qlora::lora
