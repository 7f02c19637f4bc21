#include <cstdio>

#include "core/error.h"
#include "core/rng.h"
#include "io/safetensors.h"

// Uses a header, an object file of core and one of io, and the error type across the library
// boundary.
int main() {
  qlora::Rng rng(1);
  std::printf("%u\n", rng.next_u32());
  try {
    const qlora::io::SafetensorsReader reader("no such file");
  } catch (const qlora::IoError& error) {
    std::printf("caught: %s\n", error.what());
    return 0;
  }
  return 1;
}
