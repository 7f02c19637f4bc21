#include <memory>
#include <vector>

#include "tests/emulation/runtime/state.h"

// CUDA graphs of one stream: between BeginCapture and EndCapture its work is kept instead of queued
// (Schedule::add), and queued anew with each launch of the graph.

namespace qlora::emulation {
namespace {

const Capture* captured_in(cudaGraphExec_t executable) {
  return reinterpret_cast<const Capture*>(executable);
}

}  // namespace
}  // namespace qlora::emulation

using namespace qlora::emulation;

extern "C" {

cudaError_t cudaStreamBeginCapture(cudaStream_t handle, cudaStreamCaptureMode) {
  Stream* const stream = schedule().find_stream(handle);
  if (stream == nullptr) return remember(cudaErrorInvalidResourceHandle);
  if (stream->number == 0) return remember(cudaErrorStreamCaptureUnsupported);
  if (stream->capture != nullptr) return remember(cudaErrorIllegalState);
  stream->capture = std::make_unique<Capture>();
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t* graph) {
  Stream* const stream = schedule().find_stream(handle);
  if (stream == nullptr) return remember(cudaErrorInvalidResourceHandle);
  if (stream->capture == nullptr) return remember(cudaErrorIllegalState);
  *graph = reinterpret_cast<cudaGraph_t>(stream->capture.release());
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph,
                                 unsigned long long) {
  if (graph == nullptr) return remember(cudaErrorInvalidValue);
  auto copy = std::make_unique<Capture>(*reinterpret_cast<const Capture*>(graph));
  *executable = reinterpret_cast<cudaGraphExec_t>(copy.release());
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t handle) {
  Stream* const stream = schedule().find_stream(handle);
  if (stream == nullptr) return remember(cudaErrorInvalidResourceHandle);
  for (const CapturedWork& captured : *captured_in(executable)) {
    schedule().add(*stream, captured.operation, captured.work);
  }
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete reinterpret_cast<Capture*>(graph);
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete captured_in(executable);
  return cudaSuccess;
}

}  // extern "C"
