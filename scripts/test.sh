#!/usr/bin/env bash
# Sets up, builds, runs every test, and closes with the line 'N passed, N failed, N skipped'.
# CI runs exactly this. Usage: scripts/test.sh [--full] [--only REGEX]
#   --full   adds the sanitizers on everything, clang-tidy, the comparison with the Python peers,
#            long fuzzing and ThreadSanitizer
#   --only   leaves out the stages whose names do not match, e.g. --full --only 'interop|fuzzing'
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

full=0
only=
while (($# > 0)); do
  case $1 in
    --full) full=1 ;;
    --only)
      [[ -n ${2:-} ]] || fail test "--only names no stages, allowed: a regular expression"
      only=$2 && shift
      ;;
    -h | --help) sed -n '2,6s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" && exit 0 ;;
    *) fail test "unknown argument '$1', allowed: --full, --only REGEX" ;;
  esac
  shift
done

build=$project/build
results=$build/test-results
rm -rf "$results"
mkdir -p "$results"
export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
# Folders whose tests link no libtorch: they build and run quickly under a sanitizer.
torch_free=(core io data configs quant_backend trainer_backend)

# What this machine lacks; tests/expected_skips.txt lists which tests that skips.
# shellcheck disable=SC2015
conditions() {
  ((full)) || echo no-peers
  [[ -e /dev/nvidia0 ]] || echo no-gpu
  [[ -n $(toolchain_nvcc) ]] || echo no-cuda-module
  compgen -G "models/smollm2-135m/*.gguf" > /dev/null || echo no-model
  [[ -d ../shared/reference ]] || echo no-references
  setarch -R true 2> /dev/null || echo no-setarch
  unshare "$( ((EUID == 0)) && echo -m || echo -Urm)" mount -t tmpfs none /mnt 2> /dev/null || echo no-mount
  (echo 5 > /proc/self/clear_refs) 2> /dev/null || echo no-peak-reset
  if ldconfig -p | grep -q 'libcuda\.so\.1 '; then echo has-driver; fi
}

finish() {
  local status=$?
  trap - EXIT
  printf '\n== result after %d s\n' "$SECONDS"
  ((status == 0)) || echo fail > "$results/interrupted.check"
  [[ -z $only ]] || echo "   only the stages that match $only"
  local closed=0
  # shellcheck disable=SC2046  # one word per condition
  python3 scripts/test_summary.py close "$results" tests/expected_skips.txt $(conditions) || closed=$?
  exit $((status != 0 ? status : closed))
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

is_chosen() { [[ $1 =~ $only ]]; }

# stage NAME COMMAND...: runs all of it, notes a failure, and lets the later stages run.
stage() {
  local name=$1 begin=$SECONDS status=0
  is_chosen "$name" || return 0
  shift
  printf '\n== %s\n' "$name"
  set +e
  (set -e && "$@")
  status=$?
  set -e
  printf '== %s: %s, %d s\n' "$name" "$( ((status == 0)) && echo passed || echo FAILED)" $((SECONDS - begin))
  return 0
}

# check NAME COMMAND...: a stage that counts as one test.
check() {
  local name=$1
  stage "$name" one_check "$@"
}
one_check() {
  local name=$1 status=0
  shift
  set +e
  (set -e && "$@")
  status=$?
  set -e
  if ((status == 0)); then echo pass; else echo fail; fi > "$results/${name// /-}.check"
  return "$status"
}

# tests NAME BUILD_DIR CTEST_ARGUMENT...: a stage made of ctest's tests.
tests() {
  local name=$1 folder=$2
  shift 2
  stage "$name" run_ctest "$name" "$folder" "$@"
}
ctest_prefix=()
run_ctest() {
  local name=${1// /-} folder=$2 status=0
  shift 2
  "${ctest_prefix[@]}" "$venv/bin/ctest" --test-dir "$folder" -j "$(job_count)" --output-on-failure --no-tests=ignore \
    --output-junit "$results/$name.xml" "$@" > "$results/$name.log" 2>&1 || status=$?
  if ((status != 0)); then # what failed, without the list of what passed and without ctest's summary
    sed -E '/^[0-9]+% tests passed/,$d; /(Passed|Skipped|Start +[0-9]+:)/d' "$results/$name.log" | tail -n 200
  fi
  [[ -f $results/$name.xml ]] || { echo '   no tests by that label' && return "$status"; }
  python3 scripts/test_summary.py stage "$results/$name.xml"
}

torch_free_names=$(IFS='|' && echo "${torch_free[*]}")
only_torch_free=(-R "^($torch_free_names)/")
mapfile -t torch_free_targets < <(printf '%s_tests\n' "${torch_free[@]}")
# Optimised a little, and with the assertions that Release switches off.
sanitized=(-DQLORA_CUDA=OFF -DCMAKE_BUILD_TYPE=Debug "-DCMAKE_CXX_FLAGS_DEBUG=-O1 -g1")

if ((full)); then scripts/setup.sh --full; else scripts/setup.sh; fi
check 'format' scripts/check_format.sh
stage 'model (its tests are skipped without it)' scripts/get_model.sh
scripts/build.sh architecture_tests header_checks
tests 'architecture' "$build" -L architecture
scripts/build.sh
fuzz='[Ff]uzz'
later='interop|slow' # labels of stages of their own
tests 'unit tests' "$build" -L unit -LE "$later" -E "$fuzz"
tests 'parity tests' "$build" -L parity -LE "unit|$later" -E "$fuzz"
tests 'gradient tests' "$build" -L gradient -LE "unit|parity|$later" -E "$fuzz"
tests 'end-to-end tests' "$build" -L e2e -LE "unit|parity|gradient|$later" -E "$fuzz"
tests 'emulated tests' "$build" -L emulated -LE "unit|parity|gradient|e2e|$later" -E "$fuzz"
tests 'other tests' "$build" -LE "architecture|unit|parity|gradient|e2e|emulated|$later" -E "$fuzz"
tests 'short fuzzing' "$build" -R "$fuzz" -LE "$later"
tests 'slow tests' "$build" -L slow -LE interop

check 'every test ran once' python3 scripts/test_summary.py once "$results" <("$venv/bin/ctest" --test-dir "$build" --show-only=json-v1)

check 'sanitizer build' scripts/build.sh -B build-sanitizer "${sanitized[@]}" \
  -DQLORA_SANITIZE=address,undefined "${torch_free_targets[@]}"
tests 'sanitizers, torch-free folders' build-sanitizer "${only_torch_free[@]}" -LE "$later"

if ((!full)); then # by name, so that the closing line counts them
  is_chosen 'interop with the Python peers' || exit 0
  printf '\n== interop with the Python peers: skipped, scripts/test.sh --full makes them\n'
  "$venv/bin/ctest" --test-dir "$build" -N -L interop | sed -n 's|.*: interop/||p' | while read -r name; do
    echo "   skipped: interop/$name" && echo skip > "$results/interop-$name.check"
  done
  exit 0
fi

# It reads GCC's commands and headers; of GCC's own folder it may see these alone, the rest are GCC's intrinsics.
tidy() {
  local headers=$build/gcc-headers
  mkdir -p "$headers" && cp -r "$(g++ -print-file-name=include/omp.h)" "$(g++ -print-file-name=include/sanitizer)" "$headers"
  "$venv/bin/python" scripts/tidy.py "$build" "$(job_count)" -Wno-unknown-warning-option -Wno-error "-isystem$headers"
}
check 'clang-tidy' tidy

check 'sanitizer build, everything' scripts/build.sh -B build-sanitizer "${sanitized[@]}" -DQLORA_SANITIZE=address,undefined
# libtorch is not instrumented: containers that cross its boundary look overflown, its caches leaked. A test asks for 4 PB.
# Left out: what links the installed package without the sanitizer, and what leaves a program less addresses than it takes.
export ASAN_OPTIONS=detect_container_overflow=0:detect_leaks=0:allocator_may_return_null=1
tests 'sanitizers, everything else' build-sanitizer -E "^($torch_free_names|package)/|MemoryThatRunsOutIsTold" -LE "$later|architecture"
unset ASAN_OPTIONS

scripts/setup_peers.sh --model
stage 'environments that load exports' scripts/setup_export_peers.sh
tests 'interop with the Python peers' "$build" -L interop
export QLORA_FUZZ_FACTOR=50
tests 'long fuzzing' "$build" -R "$fuzz" --timeout 3600
unset QLORA_FUZZ_FACTOR

if [[ -n $(toolchain_nvcc) ]]; then # nvcc makes other PTX for newer devices, and threads take other turns
  emulated_again() {
    scripts/build.sh -B build-emulated-120 -DQLORA_EMULATED_ARCHITECTURE=120 cuda_selftest_emulated emulation_tests
    build-emulated-120/tests/emulation_tests --gtest_brief=1
    build-emulated-120/tests/cuda_selftest_emulated --gtest_brief=1
    for seed in 0 2 3 4 5; do
      QLORA_EMULATION_SEED=$seed build/tests/cuda_selftest_emulated --gtest_brief=1
    done
  }
  check 'emulated tests for sm_120 and with other seeds' emulated_again
fi

# ThreadSanitizer knows GCC's OpenMP not at all and LLVM's through archer. It needs fixed addresses,
# which some containers forbid.
if setarch -R true 2> /dev/null; then
  check 'thread sanitizer build' scripts/build.sh -B build-thread-sanitizer "${sanitized[@]}" -DQLORA_SANITIZE=thread \
    -DCMAKE_CXX_COMPILER=clang++ -DQLORA_WERROR=OFF "${torch_free_targets[@]}"
  archer=$(compgen -G '/usr/lib/llvm-*/lib/libarcher.so' | tail -n 1)
  export OMP_TOOL_LIBRARIES=$archer TSAN_OPTIONS=ignore_noninstrumented_modules=1
  ctest_prefix=(setarch -R)
  tests 'thread sanitizer, torch-free folders' build-thread-sanitizer "${only_torch_free[@]}" -LE "$later"
  if [[ -n $(toolchain_nvcc) ]]; then # the kernels' source on the host: bugs planted, and those of the product
    check 'thread sanitizer build, kernels' scripts/build.sh planted_thread_sanitizer kernels_thread_sanitizer
    check 'thread sanitizer, planted bugs' setarch -R build/tests/planted_thread_sanitizer --gtest_brief=1
    check 'thread sanitizer, kernels' setarch -R build/tests/kernels_thread_sanitizer --gtest_brief=1 --gtest_filter='*/cuda_*'
  fi
elif is_chosen 'thread sanitizer'; then
  printf '\n== thread sanitizer: skipped, setarch -R is not permitted here\n'
  echo skip > "$results/thread-sanitizer.check"
fi
