#pragma once

#include <cstdint>

namespace qlora {

/// Sets the number of threads of every parallel loop, ours and libtorch's (both use OpenMP).
///   count     at least 1
void set_thread_count(int count);
int thread_count();

/// Calls body(begin, end) on disjoint ranges that cover [0, count), at most one range per thread.
///   grain     fewest items worth a thread of their own
///   Throws    nothing: body must not throw
///   Order     the split depends on the thread count; a body whose result depends on the split is
///             not allowed in bit-exact code
template <class Body>
void parallel_for(int64_t count, int64_t grain, const Body& body) {
  const int64_t most = grain > 0 ? (count + grain - 1) / grain : count;
  const int64_t threads = most < thread_count() ? most : thread_count();
  if (threads <= 1) {
    if (count > 0) body(int64_t{0}, count);
    return;
  }
#pragma omp parallel for num_threads(static_cast <int>(threads)) schedule(static, 1)
  for (int64_t t = 0; t < threads; ++t) body(count * t / threads, count * (t + 1) / threads);
}

}  // namespace qlora
