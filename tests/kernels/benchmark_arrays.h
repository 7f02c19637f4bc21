#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "tests/kernels/back_end.h"
#include "tests/kernels/benchmark.h"

namespace qlora::testing {

/// Device arrays that live as long as a prepared call.
class Arrays {
 public:
  template <class T>
  T* add(int64_t count, T value) {
    return add(std::vector<T>(static_cast<size_t>(count), value));
  }
  template <class T>
  T* add(const std::vector<T>& values) {
    auto array = std::make_shared<DeviceArray<T>>(BackEnd::kCuda, values);
    kept_.push_back(array);
    return array->data();
  }

 private:
  std::vector<std::shared_ptr<void>> kept_;
};

inline PreparedCall call(const std::shared_ptr<Arrays>& arrays, int64_t bytes,
                         std::function<void()> run) {
  return {[arrays, run = std::move(run)] { run(); }, bytes};
}

}  // namespace qlora::testing
