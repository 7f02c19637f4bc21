#!/usr/bin/env bash
# Configures and builds into build/; the program is build/bin/qlora. Needs what setup.sh installs.
# Usage: scripts/build.sh [TARGET...]
#   BUILD_DIR          another build folder
#   QLORA_CMAKE_FLAGS  more flags for CMake, e.g. -DCMAKE_BUILD_TYPE=Debug
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
build=${BUILD_DIR:-$project/build}
[[ -x $venv/bin/cmake ]] || fail build ".venv has no CMake; run scripts/setup.sh first"

# ccache takes a precompiled header for changed in every fresh folder unless it may ignore these.
export CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime
export CCACHE_BASEDIR=$project

flags=(-G Ninja "-DCMAKE_MAKE_PROGRAM=$venv/bin/ninja" -DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
nvcc=$(toolchain_nvcc)
if [[ -n $nvcc ]]; then
  flags+=(-DQLORA_CUDA=ON "-DCMAKE_CUDA_COMPILER=$nvcc" -DCMAKE_CUDA_COMPILER_LAUNCHER=ccache)
else
  flags+=(-DQLORA_CUDA=OFF)
fi
# shellcheck disable=SC2206  # the flags are meant to be split
flags+=(${QLORA_CMAKE_FLAGS:-})

configure() { "$venv/bin/cmake" -S "$project" -B "$build" "${flags[@]}" > "$build/configure.log" 2>&1 || {
  tail -n 30 "$build/configure.log" >&2
  return 1
}; }
compile() { "$venv/bin/cmake" --build "$build" -j "$(job_count)" ${1:+--target "$@"} -- --quiet; }

mkdir -p "$build"
step 'configure' "the last lines name what is missing; scripts/setup.sh installs all of it ($build/configure.log)" configure
step 'build' "see the compiler's message above; killed without one: not enough memory, close other programs and run again" \
  compile "$@"
