#include <cstdio>
#include <cstdlib>

#include "tests/emulation/device/machine.h"
#include "tests/emulation/runtime/state.h"

namespace qlora::emulation {

Schedule& schedule() {
  static Schedule the_one;
  return the_one;
}

Schedule::Schedule() {
  create_stream(true);  // number 0: the default stream
}

Stream* Schedule::create_stream(bool is_blocking) {
  const int number = next_stream_++;
  return (streams_[number] = std::make_unique<Stream>(number, is_blocking)).get();
}

void Schedule::destroy_stream(Stream* stream) {
  wait_for(stream->last);
  queues_.erase(stream->number);
  streams_.erase(stream->number);
}

Stream* Schedule::find_stream(cudaStream_t handle) {
  if (handle == nullptr || handle == cudaStreamLegacy) return streams_[0].get();
  for (const auto& [number, stream] : streams_) {
    if (reinterpret_cast<cudaStream_t>(stream.get()) == handle) return stream.get();
  }
  return nullptr;
}

OperationNumber Schedule::add(Stream& stream, Operation operation,
                              std::function<void(Operation&)> work, OperationNumber depends_on) {
  if (stream.capture != nullptr) {
    stream.capture->push_back({std::move(operation), std::move(work)});
    return 0;
  }
  Pending pending = {++next_number_, std::move(operation), std::move(work), {depends_on}};
  pending.operation.stream = stream.number;
  if (stream.is_blocking) {
    for (const auto& [number, other] : streams_) {
      const bool is_ordered = stream.number == 0 ? other->is_blocking : number == 0;
      if (is_ordered) pending.depends_on.push_back(other->last);
    }
  }
  stream.last = pending.number;
  pending_.insert(pending.number);
  queues_[stream.number].push_back(std::move(pending));
  return stream.last;
}

bool Schedule::is_done(OperationNumber number) const {
  return !pending_.contains(number);
}

bool Schedule::advance() {
  std::vector<std::deque<Pending>*> ready;
  OperationNumber least = UINT64_MAX;
  for (auto& [number, queue] : queues_) {
    if (queue.empty()) continue;
    const Pending& head = queue.front();
    bool is_ready = true;
    for (const OperationNumber other : head.depends_on) {
      is_ready = is_ready && (other == head.number || is_done(other));
    }
    if (!is_ready) continue;
    // Seed 0 takes the first of the list: the one that was queued first.
    if (head.number < least) {
      least = head.number;
      ready.insert(ready.begin(), &queue);
    } else {
      ready.push_back(&queue);
    }
  }
  if (ready.empty()) return false;
  std::deque<Pending>& queue = *ready[machine().random_below(ready.size())];
  Pending next = std::move(queue.front());
  queue.pop_front();
  next.work(next.operation);
  pending_.erase(next.number);
  log_.push_back(std::move(next.operation));
  return true;
}

void Schedule::wait_for(OperationNumber number) {
  while (!is_done(number)) {
    if (advance()) continue;
    std::fputs("[emulation] the streams wait for each other for ever\n", stderr);
    std::abort();
  }
}

void Schedule::wait_for_all() {
  while (!pending_.empty()) wait_for(*pending_.rbegin());
}

}  // namespace qlora::emulation
