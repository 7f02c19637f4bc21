#include "core/parallel.h"

#include <omp.h>

#include "core/error.h"

namespace qlora {

void set_thread_count(int count) {
  QLORA_CHECK(count >= 1, ConfigError, "[core] threads is {}, allowed at least 1", count);
  omp_set_num_threads(count);
}

int thread_count() {
  return omp_get_max_threads();
}

}  // namespace qlora
