# cmake -DBUILD=… -DSOURCE=… -DTORCH=… -DWORK=… -DNINJA=… -P check_install.cmake
# Installs into WORK, moves the result, and uses it as a stranger would: the program has to load every
# library from there or from the system, and a project of its own has to build against the package.
cmake_minimum_required(VERSION 3.28)

function(run)
  execute_process(COMMAND ${ARGN} OUTPUT_VARIABLE output ERROR_VARIABLE errors RESULT_VARIABLE status)
  if(NOT status EQUAL 0)
    message(FATAL_ERROR "exit code ${status}: ${ARGN}\n${output}\n${errors}")
  endif()
  set(output "${output}" PARENT_SCOPE)
  set(errors "${errors}" PARENT_SCOPE)
endfunction()

file(REMOVE_RECURSE "${WORK}")
run("${CMAKE_COMMAND}" --install "${BUILD}" --prefix "${WORK}/first")
file(RENAME "${WORK}/first" "${WORK}/moved")
set(prefix "${WORK}/moved")

# The dynamic linker's own account of what it loaded, at the start and later.
set(program "${prefix}/bin/qlora")
run("${CMAKE_COMMAND}" -E env --unset=LD_LIBRARY_PATH LD_DEBUG=files "${program}" --version)
string(REGEX MATCHALL "calling init: [^\n]*" loaded "${errors}")
list(LENGTH loaded count)
if(count LESS 5 OR NOT errors MATCHES "calling init: [^\n]*libtorch_cpu")
  message(FATAL_ERROR "the dynamic linker named ${count} libraries, libtorch_cpu expected among them:\n${errors}")
endif()
foreach(line IN LISTS loaded)
  string(REGEX REPLACE "calling init: " "" library "${line}")
  file(REAL_PATH "${library}" library)
  cmake_path(IS_PREFIX prefix "${library}" ours)
  if(NOT ours AND NOT library MATCHES "^/(usr/)?lib(64)?/")
    message(FATAL_ERROR "the installed program loads ${library}, which is neither installed nor the system's")
  endif()
endforeach()
message(STATUS "${count} libraries, all installed or the system's")

# Run paths that lead back to the build would hide a missing library on this machine.
file(GLOB binaries "${prefix}/bin/*" "${prefix}/lib/qlora/*.so*")
foreach(binary IN LISTS binaries)
  run(readelf -d "${binary}")
  if(output MATCHES "R(UN)?PATH[^\n]*(${BUILD}|${TORCH}|${SOURCE})")
    message(FATAL_ERROR "${binary} has a run path into the build: ${CMAKE_MATCH_0}")
  endif()
endforeach()

foreach(torch IN ITEMS "" "${TORCH}")
  run("${CMAKE_COMMAND}" -G Ninja "-DCMAKE_MAKE_PROGRAM=${NINJA}" -S "${SOURCE}/tests/package/consumer"
      -B "${WORK}/consumer" "-DCMAKE_PREFIX_PATH=${prefix}" "-DQLORA_TORCH_ROOT=${torch}"
      -DCMAKE_CXX_COMPILER_LAUNCHER=ccache -DCMAKE_BUILD_TYPE=Release)
  run("${CMAKE_COMMAND}" --build "${WORK}/consumer")
  run("${WORK}/consumer/consumer")
endforeach()
run("${WORK}/consumer/quant_consumer")
message(STATUS "quant through find_package: ${output}")
file(REMOVE_RECURSE "${WORK}")
