#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

namespace qlora::cuda {

/// First member of every function table that libqlora_cuda.so hands over.
struct TableHeader {
  uint32_t version;     // raised with every change of the table or of a struct that it passes
  uint32_t size_bytes;  // of the whole table
};

/// Opens libqlora_cuda.so, and with it libtorch_cuda, where a driver is there. Later calls do
/// nothing. Has to come before the first CUDA query and the first backward of the process: libtorch
/// keeps what it finds then.
///   Looks in  the folder of the program, ../lib/qlora, ../lib and ../bin
///   throws    DeviceError with the reason: no driver, no such file, a library that cannot be
///             loaded, no device, a device that is too old
void open_module();

/// Why the module could not be opened, as far as that shows without opening it: no driver, no such
/// file. Costs no memory, where opening costs libtorch_cuda's.
std::optional<std::string> module_obstacle();

/// Opens a given file, driver or not. Used by open_module and by tests.
///   throws    DeviceError
void open_module_file(const std::filesystem::path& file);

bool module_is_open();

/// Table that the function called `symbol` returns; opens the module if need be.
///   throws    DeviceError where the module cannot be opened, has no such function, or was built
///   for
///             another version of the program
const TableHeader* find_table(const char* symbol, uint32_t version, uint32_t size_bytes);

/// Table of a folder. T starts with a TableHeader and has kSymbol and kVersion.
template <class T>
const T& table() {
  static const T* found =
      reinterpret_cast<const T*>(find_table(T::kSymbol, T::kVersion, sizeof(T)));
  return *found;
}

}  // namespace qlora::cuda
