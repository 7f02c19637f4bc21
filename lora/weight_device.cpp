#include "lora/weight_device.h"

namespace qlora::lora {
namespace {

torch::Device place(const torch::Tensor& t) {
  return t.defined() ? t.device() : torch::Device(torch::kCPU);
}
template <class T>
torch::Device place(const T& t) {
  return place(t.codes);
}

torch::Tensor moved(const torch::Tensor& t, torch::Device device) {
  return t.defined() ? t.to(device) : t;
}
quant::Nf4Tensor moved(const quant::Nf4Tensor& t, torch::Device device) {
  return t.to(device);
}
quant::PackedAffine moved(quant::PackedAffine t, torch::Device device) {
  for (auto* part : {&t.codes, &t.scales, &t.zeros, &t.group_of}) *part = moved(*part, device);
  return t;
}
quant::Fp8Tensor moved(quant::Fp8Tensor t, torch::Device device) {
  for (auto* part : {&t.codes, &t.scales, &t.input_scale}) *part = moved(*part, device);
  return t;
}

template <class T>
FrozenWeight moved_form(const FrozenWeight& weight, torch::Device device) {
  FrozenWeight there(moved(weight.as<T>(), device));
  if (weight.input_quantizer()) there.set_input_quantizer(*weight.input_quantizer());
  return there;
}

}  // namespace

torch::Device device_of(const FrozenWeight& weight) {
  if (weight.holds<quant::Nf4Tensor>()) return place(weight.as<quant::Nf4Tensor>());
  if (weight.holds<quant::PackedAffine>()) return place(weight.as<quant::PackedAffine>());
  if (weight.holds<quant::Fp8Tensor>()) return place(weight.as<quant::Fp8Tensor>());
  return place(weight.as<torch::Tensor>());
}

FrozenWeight moved_to(const FrozenWeight& weight, torch::Device device) {
  if (device_of(weight) == device) return weight;
  if (weight.holds<quant::Nf4Tensor>()) return moved_form<quant::Nf4Tensor>(weight, device);
  if (weight.holds<quant::PackedAffine>()) return moved_form<quant::PackedAffine>(weight, device);
  if (weight.holds<quant::Fp8Tensor>()) return moved_form<quant::Fp8Tensor>(weight, device);
  return moved_form<torch::Tensor>(weight, device);
}

}  // namespace qlora::lora
