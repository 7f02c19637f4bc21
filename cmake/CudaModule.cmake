# libqlora_cuda.so: the kernels of all folders and libtorch_cuda. The program does not link it; it opens
# it when a CUDA device is wanted (core/cuda/module.h).
include_guard()
if(NOT QLORA_CUDA)
  return()
endif()
set(QLORA_CUDART "${QLORA_NVIDIA_ROOT}/cu13/lib/libcudart.so.13")  # the one that libtorch_cuda uses
if(NOT TARGET qlora::torch_cuda OR NOT EXISTS "${QLORA_CUDART}")
  message(FATAL_ERROR "QLORA_CUDA needs the CUDA build of libtorch and its libcudart.so.13; "
                      "run scripts/setup.sh, or pass -DQLORA_CUDA=OFF")
endif()

get_property(objects GLOBAL PROPERTY QLORA_CUDA_OBJECTS)
add_library(qlora_cuda SHARED "${PROJECT_SOURCE_DIR}/core/cuda/torch_stream.cpp")
qlora_compile_options(qlora_cuda)
target_include_directories(qlora_cuda SYSTEM PRIVATE ${CUDAToolkit_INCLUDE_DIRS})
# --no-as-needed: opening the module has to bring libtorch_cuda along, which registers itself.
target_link_libraries(qlora_cuda PRIVATE
  ${objects} fmt::fmt "LINKER:--no-as-needed" qlora::torch_cuda "${QLORA_CUDART}")
target_link_options(qlora_cuda PRIVATE "LINKER:--no-undefined")
# Only the table functions are exported: the program has functions of the same names, its forwarders.
set_target_properties(qlora_cuda PROPERTIES
  LINKER_LANGUAGE CXX CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON)
