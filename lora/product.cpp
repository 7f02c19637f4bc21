#include "lora/product.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>

#include <algorithm>

#include "core/parallel.h"

namespace qlora::lora {
namespace {

using torch::Tensor;

// Measured (docs/decisions.md): with up to this many columns oneDNN takes one thread for numbers of
// rows that have no even split into its blocks; wider or smaller products it shares out well.
constexpr int64_t kMostColumns = 1024;
constexpr int64_t kFewestRows = 320;                 // a thread's share
constexpr int64_t kFewestMultiplications = 1 << 27;  // below it, starting the threads costs more
constexpr int64_t kRowStep = 32;                     // oneDNN makes code for each number of rows

/// Calls multiply(first, count) for the rows of each thread; for all rows where oneDNN does well.
template <class Multiply>
void share_rows(const Tensor& x, const Tensor& m, const Multiply& multiply) {
  const int64_t rows = x.size(0), cols = m.size(1);
  if (!x.is_cpu()) return multiply(0, rows);  // a device has threads of its own
  const int64_t shares = std::min<int64_t>(thread_count(), rows / kFewestRows);
  if (shares < 2 || cols > kMostColumns || rows * cols * x.size(1) < kFewestMultiplications) {
    return multiply(0, rows);
  }
  const int64_t steps = (rows + kRowStep - 1) / kRowStep;
  parallel_for(steps, (steps + shares - 1) / shares, [&](int64_t begin, int64_t end) {
    const at::NoGradGuard no_graph;  // what the caller set holds in its own thread alone
    const int64_t first = begin * kRowStep;
    multiply(first, std::min(rows, end * kRowStep) - first);
  });
}

}  // namespace

Tensor product(const Tensor& x, const Tensor& m) {
  const at::NoGradGuard no_graph;
  Tensor y = at::empty({x.size(0), m.size(1)}, x.options());
  share_rows(x, m, [&](int64_t first, int64_t count) {
    Tensor rows = y.narrow(0, first, count);
    at::mm_out(rows, x.narrow(0, first, count), m);
  });
  return y;
}

void add_product(const Tensor& sum, const Tensor& x, const Tensor& m) {
  const at::NoGradGuard no_graph;
  share_rows(x, m, [&](int64_t first, int64_t count) {
    sum.narrow(0, first, count).addmm_(x.narrow(0, first, count), m);
  });
}

}  // namespace qlora::lora
