#!/usr/bin/env bash
# Configures and builds into build/; the program is build/bin/qlora. Needs what setup.sh installs.
# Usage: scripts/build.sh [-B FOLDER] [-DNAME=VALUE]... [TARGET...]
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
build=$project/build
flags=()
targets=()
while (($#)); do
  case $1 in
    -B) build=$project/$2 && shift ;;
    -D?*) flags+=("$1") ;;
    -h | --help) sed -n '2,3s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" && exit 0 ;;
    -*) fail build "unknown argument '$1', allowed: -B FOLDER, -DNAME=VALUE, targets" ;;
    *) targets+=("$1") ;;
  esac
  shift
done
[[ -x $venv/bin/cmake ]] || fail build ".venv has no CMake; run scripts/setup.sh first"

# ccache takes a precompiled header for changed in every fresh folder unless it may ignore these.
export CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime
export CCACHE_BASEDIR=$project

base=(-G Ninja "-DCMAKE_MAKE_PROGRAM=$venv/bin/ninja" -DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
nvcc=$(toolchain_nvcc)
if [[ -n $nvcc ]]; then
  base+=(-DQLORA_CUDA=ON "-DCMAKE_CUDA_COMPILER=$nvcc" -DCMAKE_CUDA_COMPILER_LAUNCHER=ccache)
else
  base+=(-DQLORA_CUDA=OFF)
fi

configure() { "$venv/bin/cmake" -S "$project" -B "$build" "${base[@]}" "${flags[@]}" > "$build/configure.log" 2>&1 || {
  tail -n 30 "$build/configure.log" >&2
  return 1
}; }
compile() { "$venv/bin/cmake" --build "$build" -j "$(job_count)" ${1:+--target "$@"} -- --quiet; }

mkdir -p "$build"
step 'configure' "the last lines name what is missing; scripts/setup.sh installs all of it ($build/configure.log)" configure
step 'build' "see the compiler's message above; killed without one: not enough memory, close other programs and run again" \
  compile "${targets[@]}"
