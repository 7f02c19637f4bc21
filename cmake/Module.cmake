# One call per folder: target qlora_<name>, alias qlora::<name>.
#
#   qlora_module(quant
#     SOURCES nf4.cpp nf4_cpu.cpp          C++ files
#     CUDA    nf4_cuda.cu                  kernels: no torch headers, linked into libqlora_cuda.so only.
#                                          fmt 9 does not compile under nvcc: text is made in .cpp files
#     DEPENDS core                         other modules (the arrows of docs/architecture.md)
#     LINK    PkgConfig::HIGHWAY           third-party targets
#     TORCH)                               the module uses libtorch and its precompiled header
include_guard()

function(qlora_compile_options target)
  target_compile_features(${target} PUBLIC cxx_std_20)
  target_include_directories(${target} PUBLIC
    "$<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}>" "$<INSTALL_INTERFACE:include/qlora>")
  # Two warnings are off: designated initializers leave members at their defaults on purpose, and
  # GCC 12 reports overflows inside libstdc++'s own inlined string copies (GCC bug 105329).
  # Contraction is off everywhere: bit-exact code writes std::fma where fused is meant.
  target_compile_options(${target} PRIVATE
    $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wno-unknown-pragmas -Wno-missing-field-initializers
                                 -Wno-stringop-overflow -Wno-restrict -ffp-contract=off>
    $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<BOOL:${QLORA_WERROR}>>:-Werror>)
endfunction()

function(qlora_module name)
  cmake_parse_arguments(M "TORCH" "" "SOURCES;CUDA;DEPENDS;LINK" ${ARGN})
  set(target qlora_${name})
  if(M_SOURCES)
    add_library(${target} STATIC ${M_SOURCES})
    set(scope PUBLIC)
    set_target_properties(${target} PROPERTIES POSITION_INDEPENDENT_CODE ON)
    qlora_compile_options(${target})
    target_link_libraries(${target} PUBLIC fmt::fmt nlohmann_json::nlohmann_json OpenMP::OpenMP_CXX)
    if(M_TORCH)
      target_link_libraries(${target} PUBLIC qlora::torch)
      target_precompile_headers(${target} REUSE_FROM qlora_torch_pch)
    endif()
  else()
    add_library(${target} INTERFACE)
    set(scope INTERFACE)
    target_compile_features(${target} INTERFACE cxx_std_20)
    target_include_directories(${target} INTERFACE "$<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}>")
  endif()
  foreach(dependency IN LISTS M_DEPENDS)
    target_link_libraries(${target} ${scope} qlora::${dependency})
  endforeach()
  target_link_libraries(${target} ${scope} ${M_LINK})
  add_library(qlora::${name} ALIAS ${target})
  set_property(GLOBAL APPEND PROPERTY QLORA_MODULES ${name})
  if(M_CUDA AND QLORA_CUDA)
    add_library(${target}_cuda OBJECT ${M_CUDA})
    qlora_compile_options(${target}_cuda)
    target_include_directories(${target}_cuda SYSTEM PRIVATE ${CUDAToolkit_INCLUDE_DIRS})
    target_link_libraries(${target}_cuda PRIVATE fmt::fmt)
    set_target_properties(${target}_cuda PROPERTIES
      POSITION_INDEPENDENT_CODE ON CUDA_STANDARD 20 CUDA_ARCHITECTURES "${QLORA_CUDA_ARCHITECTURES}"
      CUDA_RUNTIME_LIBRARY None CXX_VISIBILITY_PRESET hidden CUDA_VISIBILITY_PRESET hidden)
    target_compile_options(${target}_cuda PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:--fmad=false>)
    set_property(GLOBAL APPEND PROPERTY QLORA_CUDA_OBJECTS ${target}_cuda)
    list(TRANSFORM M_CUDA PREPEND "${CMAKE_CURRENT_SOURCE_DIR}/" OUTPUT_VARIABLE sources)
    set_property(GLOBAL APPEND PROPERTY QLORA_CUDA_SOURCES ${sources})
  endif()
endfunction()

# One precompiled header for everything that includes torch: a torch file costs 25 s without it.
function(qlora_torch_precompiled_header)
  file(WRITE "${PROJECT_BINARY_DIR}/torch_pch.cpp" "// carrier of the precompiled header\n")
  add_library(qlora_torch_pch OBJECT "${PROJECT_BINARY_DIR}/torch_pch.cpp")
  set_target_properties(qlora_torch_pch PROPERTIES POSITION_INDEPENDENT_CODE ON)
  qlora_compile_options(qlora_torch_pch)
  target_link_libraries(qlora_torch_pch PUBLIC
    qlora::torch fmt::fmt nlohmann_json::nlohmann_json OpenMP::OpenMP_CXX)
  target_precompile_headers(qlora_torch_pch PRIVATE
    <torch/types.h> <torch/csrc/autograd/custom_function.h> <torch/csrc/autograd/autograd.h>
    <ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h>
    <ATen/ops/_scaled_dot_product_flash_attention_for_cpu_backward.h>
    <nlohmann/json.hpp> <fmt/format.h> <string> <vector> <filesystem> <functional> <memory>)
endfunction()

# For executables: -fPIC as the header was compiled with, where the property would give -fPIE.
function(qlora_use_precompiled_header target)
  target_compile_options(${target} PRIVATE -fPIC)
  target_precompile_headers(${target} REUSE_FROM qlora_torch_pch)
endfunction()

# One test executable per folder: qlora_tests(quant SOURCES nf4_test.cpp … DEPENDS quant LABELS unit [TORCH]).
function(qlora_tests name)
  cmake_parse_arguments(T "TORCH" "TIMEOUT" "SOURCES;DEPENDS;LABELS;LINK" ${ARGN})
  if(NOT T_TIMEOUT)
    set(T_TIMEOUT 300)
  endif()
  set(target ${name}_tests)
  add_executable(${target} ${T_SOURCES})
  qlora_compile_options(${target})
  foreach(dependency IN LISTS T_DEPENDS)
    target_link_libraries(${target} PRIVATE qlora::${dependency})
  endforeach()
  target_link_libraries(${target} PRIVATE ${T_LINK} GTest::gtest GTest::gtest_main)
  target_compile_definitions(${target} PRIVATE
    QLORA_SOURCE_DIR="${PROJECT_SOURCE_DIR}" QLORA_BINARY_DIR="${PROJECT_BINARY_DIR}")
  set_target_properties(${target} PROPERTIES RUNTIME_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/tests")
  if(T_TORCH)
    qlora_use_precompiled_header(${target})
  endif()
  gtest_discover_tests(${target} TEST_PREFIX "${name}/" DISCOVERY_MODE PRE_TEST
    PROPERTIES LABELS "${T_LABELS}" TIMEOUT ${T_TIMEOUT})
endfunction()
