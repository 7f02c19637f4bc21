#include "model/activation_offload.h"

#include <ATen/ops/empty.h>

#include "core/error.h"
#include "model/activation_store_backend.h"
#include "quant/checks.h"

namespace qlora::model {
namespace {

/// One for the process, made when it is asked for first. Never destroyed: at the end of the process
/// the driver has gone before.
ActivationStore*& store_or_null() {
  static ActivationStore* store = nullptr;
  return store;
}

ActivationStore& store() {
  ActivationStore*& made = store_or_null();
  if (made == nullptr) made = cuda::make_activation_store();
  return *made;
}

}  // namespace

struct ActivationOffload::Entry {
  size_t number;  // of the store
  std::vector<int64_t> sizes;
  torch::ScalarType dtype;
  torch::Tensor leaving;   // alive while its copy may still read it
  torch::Tensor arriving;  // on its way back
  bool is_over = false;    // the store has its memory back
};

ActivationOffload::ActivationOffload(torch::Device device) : device_(device) {
  QLORA_CHECK(device.is_cuda(), DeviceError,
              "[model] activations on {} are offloaded, allowed a CUDA device; leave "
              "activation_offloading out",
              device.str());
  store();
}

ActivationOffload::~ActivationOffload() {
  settle_last();
  for (const Entry& entry : entries_) {
    if (!entry.is_over) store().release(entry.number);
  }
}

size_t ActivationOffload::put(const torch::Tensor& h) {
  QLORA_CHECK(
      h.device() == device_ && h.is_contiguous(), ShapeError,
      "[model] an activation of shape {} on {} is offloaded, allowed a contiguous one on {}",
      c10::str(h.sizes()), h.device().str(), device_.str());
  settle_last();
  const size_t number = store().put(h.const_data_ptr(), h.nbytes(), quant::stream_of(h));
  entries_.push_back({.number = number,
                      .sizes = h.sizes().vec(),
                      .dtype = h.scalar_type(),
                      .leaving = h.detach(),
                      .arriving = {}});
  return entries_.size() - 1;
}

/// From here on the current stream may use the memory of what left last.
void ActivationOffload::settle_last() {
  if (entries_.empty() || !entries_.back().leaving.defined()) return;
  Entry& last = entries_.back();
  store().settle(last.number, quant::stream_of(last.leaving));
  last.leaving.reset();
}

torch::Tensor ActivationOffload::get(size_t place) {
  QLORA_CHECK(place < entries_.size() && !entries_[place].is_over, ValueError,
              "[model] activation {} of {} is asked for again, allowed once: a graph is run "
              "backward once",
              place, entries_.size());
  settle_last();
  Entry& entry = entries_[place];
  if (!entry.arriving.defined()) fetch(entry);
  if (place > 0 && !entries_[place - 1].is_over) fetch(entries_[place - 1]);
  store().acquire(entry.number, quant::stream_of(entry.arriving));
  store().release(entry.number);
  entry.is_over = true;
  return std::exchange(entry.arriving, {});
}

void ActivationOffload::fetch(Entry& entry) {
  entry.arriving = at::empty(entry.sizes, torch::TensorOptions(device_).dtype(entry.dtype));
  store().fetch(entry.number, entry.arriving.mutable_data_ptr(), quant::stream_of(entry.arriving));
}

int64_t pinned_activation_bytes() {
  const ActivationStore* const made = store_or_null();
  return made == nullptr ? 0 : made->pinned_bytes();
}

}  // namespace qlora::model
