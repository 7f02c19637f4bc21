#include <memory>
#include <vector>

#include "tests/emulation/runtime/state.h"

// Streams and events. Priorities are not emulated: a program that uses them does not link.

namespace qlora::emulation {
namespace {

std::vector<std::unique_ptr<Event>>& events() {
  static std::vector<std::unique_ptr<Event>> all;
  return all;
}

Event* find_event(cudaEvent_t handle) {
  for (const auto& event : events()) {
    if (reinterpret_cast<cudaEvent_t>(event.get()) == handle) return event.get();
  }
  return nullptr;
}

cudaError_t create_stream(cudaStream_t* handle, unsigned flags) {
  if (flags != cudaStreamDefault && flags != cudaStreamNonBlocking)
    return remember(cudaErrorInvalidValue);
  *handle = reinterpret_cast<cudaStream_t>(schedule().create_stream(flags == cudaStreamDefault));
  return cudaSuccess;
}

cudaError_t create_event(cudaEvent_t* handle, unsigned flags) {
  events().push_back(std::make_unique<Event>());
  events().back()->keeps_time = (flags & cudaEventDisableTiming) == 0;
  *handle = reinterpret_cast<cudaEvent_t>(events().back().get());
  return cudaSuccess;
}

}  // namespace
}  // namespace qlora::emulation

using namespace qlora::emulation;

extern "C" {

cudaError_t cudaStreamCreate(cudaStream_t* handle) {
  return create_stream(handle, cudaStreamDefault);
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* handle, unsigned flags) {
  return create_stream(handle, flags);
}
cudaError_t cudaStreamDestroy(cudaStream_t handle) {
  Stream* const stream = schedule().find_stream(handle);
  if (stream == nullptr || stream->number == 0) return remember(cudaErrorInvalidResourceHandle);
  schedule().destroy_stream(stream);
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
  Stream* const stream = schedule().find_stream(handle);
  if (stream == nullptr) return remember(cudaErrorInvalidResourceHandle);
  schedule().wait_for(stream->last);
  return cudaSuccess;
}
cudaError_t cudaStreamQuery(cudaStream_t handle) {
  Stream* const stream = schedule().find_stream(handle);
  if (stream == nullptr) return remember(cudaErrorInvalidResourceHandle);
  if (schedule().is_done(stream->last)) return cudaSuccess;
  schedule().advance();
  return cudaErrorNotReady;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t event_handle, unsigned) {
  Stream* const stream = schedule().find_stream(handle);
  Event* const event = find_event(event_handle);
  if (stream == nullptr || event == nullptr) return remember(cudaErrorInvalidResourceHandle);
  schedule().add(
      *stream, {.kind = OperationKind::kWait, .stream = 0, .address = event}, [](Operation&) {},
      event->recorded);
  return cudaSuccess;
}
cudaError_t cudaLaunchHostFunc(cudaStream_t handle, cudaHostFn_t function, void* data) {
  Stream* const stream = schedule().find_stream(handle);
  if (stream == nullptr) return remember(cudaErrorInvalidResourceHandle);
  schedule().add(*stream, {.kind = OperationKind::kHostFunction, .stream = 0, .address = data},
                 [=](Operation&) { function(data); });
  return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t* handle) {
  return create_event(handle, cudaEventDefault);
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* handle, unsigned flags) {
  return create_event(handle, flags);
}
cudaError_t cudaEventDestroy(cudaEvent_t handle) {
  Event* const event = find_event(handle);
  if (event == nullptr) return remember(cudaErrorInvalidResourceHandle);
  schedule().wait_for(event->recorded);
  std::erase_if(events(), [&](const auto& e) { return e.get() == event; });
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t handle, cudaStream_t stream_handle) {
  Stream* const stream = schedule().find_stream(stream_handle);
  Event* const event = find_event(handle);
  if (stream == nullptr || event == nullptr) return remember(cudaErrorInvalidResourceHandle);
  event->recorded =
      schedule().add(*stream, {.kind = OperationKind::kRecord, .stream = 0, .address = event},
                     [event](Operation&) { event->time = std::chrono::steady_clock::now(); });
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t handle) {
  Event* const event = find_event(handle);
  if (event == nullptr) return remember(cudaErrorInvalidResourceHandle);
  schedule().wait_for(event->recorded);
  return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t handle) {
  Event* const event = find_event(handle);
  if (event == nullptr) return remember(cudaErrorInvalidResourceHandle);
  if (schedule().is_done(event->recorded)) return cudaSuccess;
  schedule().advance();
  return cudaErrorNotReady;
}
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t begin_handle, cudaEvent_t end_handle) {
  Event* const begin = find_event(begin_handle);
  Event* const end = find_event(end_handle);
  if (begin == nullptr || end == nullptr || !begin->keeps_time || !end->keeps_time ||
      begin->recorded == 0 || end->recorded == 0) {
    return remember(cudaErrorInvalidResourceHandle);
  }
  if (!schedule().is_done(begin->recorded) || !schedule().is_done(end->recorded))
    return cudaErrorNotReady;
  *ms = std::chrono::duration<float, std::milli>(end->time - begin->time).count();
  return cudaSuccess;
}

}  // extern "C"
