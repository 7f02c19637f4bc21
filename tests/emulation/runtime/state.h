#pragma once

#include <cuda_runtime_api.h>

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "tests/emulation/emulated_cuda.h"

// What the functions of the emulated libcudart share. One host thread at a time.

namespace qlora::emulation {

using OperationNumber = uint64_t;  // rising from 1; 0: none

/// Work that a stream was given while it was captured: a graph.
struct CapturedWork {
  Operation operation;
  std::function<void(Operation&)> work;
};
using Capture = std::vector<CapturedWork>;

struct Stream {
  int number;
  bool is_blocking;  // waits for the default stream, and that for it
  OperationNumber last = 0;
  std::unique_ptr<Capture> capture = nullptr;  // where work goes instead of the queue
};

struct Event {
  OperationNumber recorded = 0;
  std::chrono::steady_clock::time_point time = {};
  bool keeps_time = true;
};

/// Queued work, one queue per stream. Nothing runs before somebody waits for it; then streams take
/// turns at random, each in its own order, and an operation only after all that it depends on.
class Schedule {
 public:
  Schedule();

  Stream* create_stream(bool is_blocking);
  void destroy_stream(Stream* stream);
  /// The stream of a handle; null where it is none. Handles 0 and 1 are the default stream.
  Stream* find_stream(cudaStream_t handle);

  OperationNumber add(Stream& stream, Operation operation, std::function<void(Operation&)> work,
                      OperationNumber depends_on = 0);
  bool is_done(OperationNumber number) const;
  void wait_for(OperationNumber number);
  void wait_for_all();
  /// Runs one operation that may run; false where there is none.
  bool advance();

  const std::vector<Operation>& done() const { return log_; }
  void clear_log() { log_.clear(); }

 private:
  struct Pending {
    OperationNumber number;
    Operation operation;
    std::function<void(Operation&)> work;
    std::vector<OperationNumber> depends_on;
  };
  std::map<int, std::unique_ptr<Stream>> streams_;
  std::map<int, std::deque<Pending>> queues_;
  std::set<OperationNumber> pending_;
  int next_stream_ = 0;
  OperationNumber next_number_ = 0;
  std::vector<Operation> log_;
};

Schedule& schedule();

/// Properties that tests may change.
struct DeviceSettings {
  int capability;  // 80 for 8.0: that of the PTX which was translated
  bool has_concurrent_managed_access = true;
};
DeviceSettings& device_settings();

/// Every .entry of the modules that the program registered.
std::vector<std::string> registered_entries();

/// Keeps a failure for cudaGetLastError and passes it on.
cudaError_t remember(cudaError_t status);

}  // namespace qlora::emulation
