#pragma once

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "core/cuda/check.h"
#include "core/float_kind.h"
#include "tests/quant/cpu_case.h"

namespace qlora::testing {

enum class BackEnd { kCpu, kCuda };

/// One row of the kernel tests' table.
struct KernelCase {
  BackEnd back_end;
  FloatKind kind;
};

inline std::string case_name(const ::testing::TestParamInfo<KernelCase>& info) {
  return std::string(info.param.back_end == BackEnd::kCpu ? "cpu_" : "cuda_") +
         kind_name(info.param.kind);
}

/// {cpu, cuda} x {f32, f16, bf16}.
inline std::vector<KernelCase> kernel_cases() {
  std::vector<KernelCase> cases;
  for (const BackEnd back_end : {BackEnd::kCpu, BackEnd::kCuda}) {
    for (const FloatKind kind : kFloatKinds) cases.push_back({back_end, kind});
  }
  return cases;
}

/// {cpu, cuda}, for kernels that know one type.
inline std::vector<KernelCase> f32_cases() {
  return {{BackEnd::kCpu, FloatKind::kF32}, {BackEnd::kCuda, FloatKind::kF32}};
}

/// An array of exactly its size where the back end computes, so that what lies behind its end is
/// nobody's.
template <class T>
class DeviceArray {
 public:
  DeviceArray(BackEnd back_end, const T* from, size_t count)
      : back_end_(back_end), count_(count), bytes_(count * sizeof(T)) {
    if (back_end_ == BackEnd::kCpu) {
      memory_ = ::operator new(bytes_);
      std::memcpy(memory_, from, bytes_);
    } else {
      cuda::check(cudaMalloc(&memory_, bytes_));
      cuda::check(cudaMemcpy(memory_, from, bytes_, cudaMemcpyHostToDevice));
    }
  }
  DeviceArray(BackEnd back_end, const std::vector<T>& values)
      : DeviceArray(back_end, values.data(), values.size()) {}
  ~DeviceArray() {
    if (back_end_ == BackEnd::kCpu) {
      ::operator delete(memory_);
    } else {
      cudaFree(memory_);
    }
  }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  T* data() { return static_cast<T*>(memory_); }

  /// What is in it once all queued work is done.
  std::vector<T> values() const {
    std::vector<T> host(count_);
    if (back_end_ == BackEnd::kCpu) {
      std::memcpy(host.data(), memory_, bytes_);
    } else {
      cuda::check(cudaMemcpy(host.data(), memory_, bytes_, cudaMemcpyDeviceToHost));
    }
    return host;
  }

 private:
  BackEnd back_end_;
  size_t count_, bytes_;
  void* memory_ = nullptr;
};

/// Numbers of the row's type where the back end computes.
class DeviceNumbers {
 public:
  DeviceNumbers(const KernelCase& row, Numbers& numbers)
      : kind_(row.kind),
        count_(numbers.size()),
        array_(row.back_end, static_cast<const std::byte*>(numbers.data()),
               static_cast<size_t>(count_ * kind_bytes(row.kind))) {}

  void* data() { return array_.data(); }
  Numbers values() const {
    Numbers host(kind_, count_);
    std::memcpy(host.data(), array_.values().data(),
                static_cast<size_t>(count_ * kind_bytes(kind_)));
    return host;
  }

 private:
  FloatKind kind_;
  int64_t count_;
  DeviceArray<std::byte> array_;
};

/// Skips the CUDA rows where there is no device.
class KernelTest : public ::testing::TestWithParam<KernelCase> {
 protected:
  void SetUp() override {
    int count = 0;
    if (back_end() == BackEnd::kCuda && (cudaGetDeviceCount(&count) != cudaSuccess || count == 0)) {
      cudaGetLastError();
      GTEST_SKIP() << "no CUDA device";
    }
  }
  BackEnd back_end() const { return GetParam().back_end; }
  FloatKind kind() const { return GetParam().kind; }
  bool is_cuda() const { return back_end() == BackEnd::kCuda; }

  template <class T>
  DeviceArray<T> array(const std::vector<T>& values) const {
    return DeviceArray<T>(back_end(), values);
  }
  template <class T>
  DeviceArray<T> filled(int64_t count, T value) const {
    return DeviceArray<T>(back_end(), std::vector<T>(static_cast<size_t>(count), value));
  }
  DeviceNumbers numbers(Numbers& values) const { return DeviceNumbers(GetParam(), values); }
};

/// Whether all elements have the same bits; the first that has not.
inline ::testing::AssertionResult same_bits(Numbers got, Numbers want) {
  if (got.size() != want.size())
    return ::testing::AssertionFailure() << got.size() << " elements, not " << want.size();
  for (int64_t i = 0; i < got.size(); ++i) {
    if (got.bits(i) != want.bits(i)) {
      return ::testing::AssertionFailure()
             << "element " << i << " is " << got.get(i) << ", not " << want.get(i);
    }
  }
  return ::testing::AssertionSuccess();
}

}  // namespace qlora::testing
