#!/usr/bin/env bash
# Sets up, builds, runs every test, and closes with the line 'N passed, N failed, N skipped'.
# CI runs exactly this. Usage: scripts/test.sh [--full]
#   --full   adds the sanitizers on everything, clang-tidy, the comparison with the Python peers,
#            long fuzzing and ThreadSanitizer
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

full=0
for argument in "$@"; do
  case $argument in
    --full) full=1 ;;
    -h | --help) sed -n '2,5s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" && exit 0 ;;
    *) fail test "unknown argument '$argument', allowed: --full" ;;
  esac
done

build=$project/build
results=$build/test-results
rm -rf "$results"
mkdir -p "$results"
export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
# Folders whose tests link no libtorch: they build and run quickly under a sanitizer.
torch_free=(core io data configs)

# What this machine lacks; tests/expected_skips.txt lists which tests that skips.
conditions() {
  [[ -e /dev/nvidia0 ]] || echo no-gpu
  [[ -n $(toolchain_nvcc) ]] || echo no-cuda-module
  compgen -G "models/smollm2-135m/*.gguf" > /dev/null || echo no-model
  [[ -d ../shared/reference ]] || echo no-references
}

finish() {
  local status=$?
  trap - EXIT
  printf '\n== result after %d s\n' "$SECONDS"
  ((status == 0)) || echo fail > "$results/interrupted.check"
  local closed=0
  # shellcheck disable=SC2046  # one word per condition
  python3 scripts/test_summary.py close "$results" tests/expected_skips.txt $(conditions) || closed=$?
  exit $((status != 0 ? status : closed))
}
trap finish EXIT

# stage NAME COMMAND...: runs all of it, notes a failure, and lets the later stages run.
stage() {
  local name=$1 begin=$SECONDS status=0
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
run_ctest() {
  local name=${1// /-} folder=$2 status=0
  shift 2
  "$venv/bin/ctest" --test-dir "$folder" -j "$(job_count)" --output-on-failure --no-tests=ignore \
    --output-junit "$results/$name.xml" "$@" > "$results/$name.log" 2>&1 || status=$?
  if ((status != 0)); then grep -vE '(Passed|Skipped|Start +[0-9]+:)' "$results/$name.log" | tail -n 200 || true; fi
  [[ -f $results/$name.xml ]] || { echo '   no tests by that label' && return "$status"; }
  python3 scripts/test_summary.py stage "$results/$name.xml"
}

only_torch_free=(-R "^($(IFS='|' && echo "${torch_free[*]}"))/")
mapfile -t torch_free_targets < <(printf '%s_tests\n' "${torch_free[@]}")
# Optimised a little, and with the assertions that Release switches off.
sanitized=(-DQLORA_CUDA=OFF -DCMAKE_BUILD_TYPE=Debug "-DCMAKE_CXX_FLAGS_DEBUG=-O1 -g1")

scripts/setup.sh
check 'format' scripts/check_format.sh
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

((full)) || exit 0

tidy() {
  scripts/build.sh -B build-tidy -DQLORA_CUDA=OFF -DCMAKE_DISABLE_PRECOMPILE_HEADERS=ON header_checks_none
  run-clang-tidy -quiet -p build-tidy -j "$(job_count)" "^$project/(core|io|quant|lora|model|data|eval|trainer|configs|cli|tests)/" \
    > "$results/tidy.log" 2>&1 || { grep -E '(warning|error):' "$results/tidy.log" | sort -u | head -n 50 && return 1; }
}
check 'clang-tidy' tidy

check 'sanitizer build, everything' scripts/build.sh -B build-sanitizer "${sanitized[@]}" -DQLORA_SANITIZE=address,undefined
# libtorch is not instrumented: containers that cross its boundary look overflown, its caches leaked.
ASAN_OPTIONS=detect_container_overflow=0:detect_leaks=0 \
  tests 'sanitizers, everything' build-sanitizer -LE "$later|architecture"

scripts/setup_peers.sh --model
tests 'interop with the Python peers' "$build" -L interop
QLORA_FUZZ_FACTOR=50 tests 'long fuzzing' "$build" -R "$fuzz"
