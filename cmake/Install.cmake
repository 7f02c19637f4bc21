# cmake --install build [--prefix P]      program, the shared libraries it needs, headers, CMake package
# cmake --install build --component cuda  the CUDA module and its libraries (3.4 GB) on top
#
# The libraries of the torch wheel lie in lib/qlora, where no other program finds them. libtorch's own
# run path ends in $ORIGIN, so the program outlives the build folder and its venv.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
set(qlora_lib "${CMAKE_INSTALL_LIBDIR}/qlora")
set(qlora_package "${CMAKE_INSTALL_LIBDIR}/cmake/qlora")

# install() copies a link as a link; the wheel's libraries are plain files, but keep it so for all.
function(qlora_install_libraries)
  cmake_parse_arguments(I "" "COMPONENT" "PATTERNS" ${ARGN})
  foreach(pattern IN LISTS I_PATTERNS)
    file(GLOB files "${pattern}")
    if(NOT files)
      message(FATAL_ERROR "no file matches ${pattern}: is the torch wheel of the pinned version?")
    endif()
    foreach(file IN LISTS files)
      file(REAL_PATH "${file}" real)
      cmake_path(GET file FILENAME name)
      if(I_COMPONENT STREQUAL "cuda")
        install(FILES "${real}" RENAME "${name}" DESTINATION "${qlora_lib}" COMPONENT cuda EXCLUDE_FROM_ALL)
      else()
        install(FILES "${real}" RENAME "${name}" DESTINATION "${qlora_lib}" COMPONENT ${I_COMPONENT})
      endif()
    endforeach()
  endforeach()
endfunction()

if(TARGET qlora)
  cmake_path(RELATIVE_PATH CMAKE_INSTALL_FULL_LIBDIR BASE_DIRECTORY "${CMAKE_INSTALL_FULL_BINDIR}"
             OUTPUT_VARIABLE lib_from_bin)
  set_target_properties(qlora PROPERTIES INSTALL_RPATH "$ORIGIN/${lib_from_bin}/qlora")
  install(TARGETS qlora RUNTIME DESTINATION "${CMAKE_INSTALL_BINDIR}" COMPONENT program)
endif()
qlora_install_libraries(COMPONENT program PATTERNS
  "${QLORA_TORCH_ROOT}/lib/libtorch_cpu.so" "${QLORA_TORCH_ROOT}/lib/libc10.so"
  "${QLORA_TORCH_ROOT}/lib/libgomp.so*"
  "${QLORA_NVIDIA_ROOT}/cu13/lib/libcudart.so.*" "${QLORA_NVIDIA_ROOT}/cu13/lib/libcupti.so.*")
install(FILES "${PROJECT_SOURCE_DIR}/LICENSE" DESTINATION "${CMAKE_INSTALL_DOCDIR}" COMPONENT program)
file(GLOB torch_licence "${QLORA_TORCH_ROOT}-*.dist-info/licenses/LICENSE")
install(FILES ${torch_licence} RENAME LICENSE.libtorch DESTINATION "${CMAKE_INSTALL_DOCDIR}"
        COMPONENT program OPTIONAL)
install(DIRECTORY "${PROJECT_SOURCE_DIR}/configs/" DESTINATION "${CMAKE_INSTALL_DATADIR}/qlora/configs"
        COMPONENT program FILES_MATCHING PATTERN "*.json")

if(TARGET qlora_cuda)
  set(cuda_libraries cublas cublasLt cufft cufile curand cusolver cusparse nvrtc nvrtc-builtins nvJitLink)
  list(TRANSFORM cuda_libraries REPLACE "^(.+)$" "${QLORA_NVIDIA_ROOT}/cu13/lib/lib\\1.so.*")
  set_target_properties(qlora_cuda PROPERTIES INSTALL_RPATH "$ORIGIN")
  install(TARGETS qlora_cuda LIBRARY DESTINATION "${qlora_lib}" COMPONENT cuda EXCLUDE_FROM_ALL)
  qlora_install_libraries(COMPONENT cuda PATTERNS ${cuda_libraries}
    "${QLORA_TORCH_ROOT}/lib/libtorch_cuda*.so" "${QLORA_TORCH_ROOT}/lib/libc10_cuda.so"
    "${QLORA_TORCH_ROOT}/lib/libtorch_nvshmem.so" "${QLORA_TORCH_ROOT}/lib/libcaffe2_nvrtc.so"
    "${QLORA_NVIDIA_ROOT}/cudnn/lib/*.so.*" "${QLORA_NVIDIA_ROOT}/cusparselt/lib/*.so.*"
    "${QLORA_NVIDIA_ROOT}/nccl/lib/*.so.*" "${QLORA_NVIDIA_ROOT}/nvshmem/lib/*.so.*")
endif()

# The modules as a CMake package, in two export sets: a project that uses the torch-free ones needs no
# libtorch. Each module installs the headers of its folder.
get_property(modules GLOBAL PROPERTY QLORA_MODULES)
function(qlora_uses_torch module result)
  set(found FALSE)
  set(links)
  if(TARGET qlora_${module})  # a wrong name in DEPENDS gets CMake's own message later
    get_target_property(links qlora_${module} INTERFACE_LINK_LIBRARIES)
  endif()
  foreach(link IN LISTS links)
    if(link STREQUAL "qlora::torch")
      set(found TRUE)
    elseif(link MATCHES "^qlora::(.+)$" AND NOT found)
      qlora_uses_torch(${CMAKE_MATCH_1} found)
    endif()
  endforeach()
  set(${result} ${found} PARENT_SCOPE)
endfunction()

set(exports)
foreach(module IN LISTS modules)
  set(target qlora_${module})
  get_target_property(type ${target} TYPE)
  set(scope PUBLIC)
  if(type STREQUAL "INTERFACE_LIBRARY")
    set(scope INTERFACE)
  endif()
  file(GLOB_RECURSE headers CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/${module}/*.h")
  target_sources(${target} ${scope}
    FILE_SET HEADERS BASE_DIRS "${PROJECT_SOURCE_DIR}" FILES ${headers})
  set_target_properties(${target} PROPERTIES EXPORT_NAME ${module})
  qlora_uses_torch(${module} uses_torch)
  set(export qloraTargets)
  if(uses_torch)
    set(export qloraTorchTargets)
    list(APPEND qlora_torch_modules ${module})
  endif()
  list(APPEND exports ${export})
  install(TARGETS ${target} EXPORT ${export}
    ARCHIVE DESTINATION "${qlora_lib}" COMPONENT development
    FILE_SET HEADERS DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}/qlora" COMPONENT development)
endforeach()
list(REMOVE_DUPLICATES exports)
foreach(export IN LISTS exports)
  install(EXPORT ${export} NAMESPACE qlora:: DESTINATION "${qlora_package}" COMPONENT development)
endforeach()
configure_package_config_file("${PROJECT_SOURCE_DIR}/cmake/qloraConfig.cmake.in"
  "${PROJECT_BINARY_DIR}/qloraConfig.cmake" INSTALL_DESTINATION "${qlora_package}")
write_basic_package_version_file("${PROJECT_BINARY_DIR}/qloraConfigVersion.cmake"
  COMPATIBILITY SameMinorVersion)
install(FILES "${PROJECT_BINARY_DIR}/qloraConfig.cmake" "${PROJECT_BINARY_DIR}/qloraConfigVersion.cmake"
              "${PROJECT_SOURCE_DIR}/cmake/Torch.cmake"
        DESTINATION "${qlora_package}" COMPONENT development)
