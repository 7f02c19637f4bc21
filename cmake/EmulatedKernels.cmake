# Kernels that run without a GPU: tests/emulation/README.md says how.
#
#   qlora_kernel_objects(NAME SOURCES a.cu b.cpp …)
#     One object library NAME_<file> per source, as the CUDA module compiles it, but for one virtual
#     architecture and with its PTX uncompressed. ${NAME}_OBJECTS: all of them, for linking.
#   qlora_emulated_runtime(NAME KERNELS kernels)
#     The emulated libcudart.so.13 with the translated PTX of qlora_kernel_objects(kernels …) in it.
#   qlora_source_route(NAME KERNELS a.cu … SOURCES test.cpp … DEPENDS module …)
#     A test program whose kernels are compiled for the host, under ThreadSanitizer. Not part of `all`.
include_guard()
set(QLORA_EMULATED_ARCHITECTURE 80 CACHE STRING "Compute capability whose PTX the emulated tests run")

function(qlora_kernel_objects name)
  cmake_parse_arguments(K "" "" "SOURCES" ${ARGN})
  set(libraries)
  foreach(source IN LISTS K_SOURCES)
    cmake_path(GET source STEM LAST_ONLY stem)
    set(library ${name}_${stem})
    if(TARGET ${library})  # two folders may have a file of the same name
      cmake_path(GET source PARENT_PATH folder)
      cmake_path(GET folder FILENAME folder)
      set(library ${name}_${folder}_${stem})
    endif()
    add_library(${library} OBJECT ${source})
    qlora_compile_options(${library})
    target_include_directories(${library} SYSTEM PRIVATE ${CUDAToolkit_INCLUDE_DIRS})
    target_link_libraries(${library} PRIVATE fmt::fmt)
    set_target_properties(${library} PROPERTIES
      POSITION_INDEPENDENT_CODE ON CUDA_STANDARD 20 CUDA_RUNTIME_LIBRARY None
      CUDA_ARCHITECTURES ${QLORA_EMULATED_ARCHITECTURE}-virtual)
    target_compile_options(${library} PRIVATE
      $<$<COMPILE_LANGUAGE:CUDA>:--fmad=false --compress-mode=none>)
    list(APPEND libraries ${library})
  endforeach()
  set_property(GLOBAL PROPERTY QLORA_KERNEL_OBJECTS_${name} "${libraries}")
  set(${name}_OBJECTS "${libraries}" PARENT_SCOPE)
endfunction()

function(qlora_emulated_runtime name)
  cmake_parse_arguments(R "" "KERNELS" "" ${ARGN})
  find_package(Python3 REQUIRED COMPONENTS Interpreter)
  set(translator "${PROJECT_SOURCE_DIR}/tests/emulation/translator")
  file(GLOB translator_files CONFIGURE_DEPENDS "${translator}/*.py")
  set(folder "${CMAKE_CURRENT_BINARY_DIR}/${name}")
  file(MAKE_DIRECTORY "${folder}")
  get_property(libraries GLOBAL PROPERTY QLORA_KERNEL_OBJECTS_${R_KERNELS})
  set(translated)
  foreach(library IN LISTS libraries)
    get_target_property(source ${library} SOURCES)
    if(NOT source MATCHES "\\.cu$" OR source MATCHES "cuda_table\\.cu$|device_cuda\\.cu$")
      continue()  # no kernel in it
    endif()
    set(output "${folder}/${library}.cpp")
    add_custom_command(OUTPUT "${output}"
      COMMAND "${CMAKE_COMMAND}" -E env "PYTHONPATH=${PROJECT_SOURCE_DIR}/tests/emulation" PYTHONDONTWRITEBYTECODE=1
              "${Python3_EXECUTABLE}" -m translator "$<TARGET_OBJECTS:${library}>" "${output}"
              --ptx "${folder}/${library}.ptx"
      BYPRODUCTS "${folder}/${library}.ptx"
      DEPENDS ${translator_files} ${library} "$<TARGET_OBJECTS:${library}>"
      COMMENT "Translating the PTX of ${source}" VERBATIM)
    list(APPEND translated "${output}")
  endforeach()
  add_library(${name} SHARED ${translated} $<TARGET_OBJECTS:emulation_objects>)
  target_compile_features(${name} PRIVATE cxx_std_20)
  target_include_directories(${name} PRIVATE "${PROJECT_SOURCE_DIR}")
  # Integers wrap as on the device, and a multiply and an add stay two roundings.
  target_compile_options(${name} PRIVATE -O1 -fwrapv -fno-strict-aliasing -ffp-contract=off -w)
  target_link_libraries(${name} PRIVATE fmt::fmt)
  set(map "${PROJECT_SOURCE_DIR}/tests/emulation/runtime/cudart.map")
  target_link_options(${name} PRIVATE "LINKER:--version-script=${map}" "LINKER:--no-undefined")
  set_target_properties(${name} PROPERTIES OUTPUT_NAME cudart SOVERSION 13
    LIBRARY_OUTPUT_DIRECTORY "${folder}" LINK_DEPENDS "${map}")
endfunction()

function(qlora_source_route name)
  cmake_parse_arguments(S "" "" "KERNELS;SOURCES;DEPENDS" ${ARGN})
  find_package(Python3 REQUIRED COMPONENTS Interpreter)
  set(source_route "${PROJECT_SOURCE_DIR}/tests/emulation/source")
  set(folder "${CMAKE_CURRENT_BINARY_DIR}/${name}")
  file(MAKE_DIRECTORY "${folder}")
  set(kernels)
  foreach(source IN LISTS S_KERNELS)
    if(source MATCHES "cuda_table\\.cu$|device_cuda\\.cu$|_cuda\\.cpp$")
      continue()  # no kernel in it; _cuda.cpp orders streams, and here every call is done at once
    elseif(NOT source MATCHES "\\.cu$")
      list(APPEND kernels "${source}")
      continue()
    endif()
    cmake_path(RELATIVE_PATH source BASE_DIRECTORY "${PROJECT_SOURCE_DIR}" OUTPUT_VARIABLE relative)
    string(REPLACE "/" "_" relative "${relative}")
    set(output "${folder}/${relative}.cpp")
    add_custom_command(OUTPUT "${output}"
      COMMAND "${Python3_EXECUTABLE}" "${source_route}/rewrite_launches.py" "${source}" "${output}"
      DEPENDS "${source}" "${source_route}/rewrite_launches.py" VERBATIM)
    set_source_files_properties("${output}" PROPERTIES
      COMPILE_OPTIONS "-include;${source_route}/device_source.h"
      OBJECT_DEPENDS "${source_route}/device_source.h")
    list(APPEND kernels "${output}")
  endforeach()
  add_executable(${name} EXCLUDE_FROM_ALL ${kernels} ${S_SOURCES} "${source_route}/host_runtime.cpp"
    "${source_route}/sanitizer_options.cpp" $<TARGET_OBJECTS:emulation_sanitized_objects>)
  qlora_compile_options(${name})
  target_include_directories(${name} SYSTEM PRIVATE ${CUDAToolkit_INCLUDE_DIRS})
  target_compile_options(${name} PRIVATE -O1 -g1 -fsanitize=thread -fwrapv -fno-strict-aliasing)
  target_link_options(${name} PRIVATE -fsanitize=thread)
  foreach(dependency IN LISTS S_DEPENDS)
    target_link_libraries(${name} PRIVATE qlora::${dependency})
  endforeach()
  target_link_libraries(${name} PRIVATE fmt::fmt PkgConfig::HIGHWAY GTest::gtest GTest::gtest_main)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/tests")
endfunction()
