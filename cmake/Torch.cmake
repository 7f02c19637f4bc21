# libtorch out of the pinned torch wheel, as imported targets.
#   qlora::torch       libtorch_cpu and c10: what the program links
#   qlora::torch_cuda  libtorch_cuda: what the CUDA module alone links
# find_package(Torch) is not used; docs/decisions.md says why.
set(QLORA_TORCH_ROOT "" CACHE PATH "Folder of the torch package (holds include/ and lib/)")
if(NOT QLORA_TORCH_ROOT)
  file(GLOB candidates "${PROJECT_SOURCE_DIR}/.venv/lib/python3*/site-packages/torch")
  list(GET candidates 0 QLORA_TORCH_ROOT)
endif()
if(NOT EXISTS "${QLORA_TORCH_ROOT}/lib/libtorch_cpu.so")
  message(FATAL_ERROR "libtorch not found under '${QLORA_TORCH_ROOT}'. Run scripts/setup.sh, "
                      "or pass -DQLORA_TORCH_ROOT=<folder of the torch package>.")
endif()
cmake_path(GET QLORA_TORCH_ROOT PARENT_PATH torch_site)
set(QLORA_NVIDIA_ROOT "${torch_site}/nvidia")

add_library(qlora_torch_c10 SHARED IMPORTED)
set_target_properties(qlora_torch_c10 PROPERTIES
  IMPORTED_LOCATION "${QLORA_TORCH_ROOT}/lib/libc10.so")

add_library(qlora_torch SHARED IMPORTED)
set_target_properties(qlora_torch PROPERTIES
  IMPORTED_LOCATION "${QLORA_TORCH_ROOT}/lib/libtorch_cpu.so"
  INTERFACE_COMPILE_DEFINITIONS "_GLIBCXX_USE_CXX11_ABI=1")
target_include_directories(qlora_torch SYSTEM INTERFACE
  "${QLORA_TORCH_ROOT}/include" "${QLORA_TORCH_ROOT}/include/torch/csrc/api/include")
target_link_libraries(qlora_torch INTERFACE qlora_torch_c10)
# libtorch_cpu of the CUDA wheel needs the wheel's own CUDA libraries, not a system's older ones.
foreach(folder cu13/lib nccl/lib cudnn/lib nvshmem/lib cusparselt/lib)
  if(EXISTS "${QLORA_NVIDIA_ROOT}/${folder}")
    target_link_options(qlora_torch INTERFACE "LINKER:-rpath-link,${QLORA_NVIDIA_ROOT}/${folder}")
  endif()
endforeach()
# torch's headers bring another version of fmt along; the one that is linked has to be found first.
find_path(QLORA_FMT_INCLUDE fmt/format.h PATHS /usr/include NO_DEFAULT_PATH REQUIRED)
file(MAKE_DIRECTORY "${PROJECT_BINARY_DIR}/include_first")
file(CREATE_LINK "${QLORA_FMT_INCLUDE}/fmt" "${PROJECT_BINARY_DIR}/include_first/fmt" SYMBOLIC)
target_compile_options(qlora_torch INTERFACE "-I${PROJECT_BINARY_DIR}/include_first")
add_library(qlora::torch ALIAS qlora_torch)

if(EXISTS "${QLORA_TORCH_ROOT}/lib/libtorch_cuda.so")
  add_library(qlora_torch_cuda SHARED IMPORTED)
  set_target_properties(qlora_torch_cuda PROPERTIES
    IMPORTED_LOCATION "${QLORA_TORCH_ROOT}/lib/libtorch_cuda.so")
  add_library(qlora_torch_c10_cuda SHARED IMPORTED)
  set_target_properties(qlora_torch_c10_cuda PROPERTIES
    IMPORTED_LOCATION "${QLORA_TORCH_ROOT}/lib/libc10_cuda.so")
  target_link_libraries(qlora_torch_cuda INTERFACE qlora_torch qlora_torch_c10_cuda)
  add_library(qlora::torch_cuda ALIAS qlora_torch_cuda)
endif()
