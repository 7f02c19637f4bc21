#!/usr/bin/env bash
# Installs what the build needs and is not there yet. quickstart.sh and test.sh call it first.
#   system packages   through apt, as root or with sudo; only those that are missing
#   .venv             in the project: the torch wheel (libtorch), CMake, Ninja; 5.5 GB on disk
#   nvcc              an installed CUDA 13 toolkit, else PyPI's, else a build without the CUDA module
# Usage: scripts/setup.sh [--no-cuda] [--full]
#   --no-cuda  do not look for nvcc
#   --full     also what scripts/test.sh --full needs
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

want_cuda=1
full=0
for argument in "$@"; do
  case $argument in
    --no-cuda) want_cuda=0 ;;
    --full) full=1 ;;
    -h | --help) sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" && exit 0 ;;
    *) fail setup "unknown argument '$argument', allowed: --no-cuda, --full" ;;
  esac
done

packages=(
  g++ git ccache pkg-config                             # build tools
  python3 python3-venv                                  # only to install the wheels below
  libhwy-dev libpcre2-dev libsentencepiece-dev          # SIMD, tokenizers
  libgoogle-perftools-dev                               # tcmalloc
  libfmt-dev nlohmann-json3-dev libcli11-dev libssl-dev # text, JSON, command line, SHA-256
  libgtest-dev libgmock-dev libbenchmark-dev            # tests and benchmarks
  clang-format                                          # style
  wordnet-base unzip ca-certificates                    # the quickstart's data and model
)
if ((full)); then packages+=(clang libomp-dev); fi # ThreadSanitizer understands LLVM's OpenMP only

install_packages() {
  if ! command -v dpkg-query > /dev/null || ! command -v apt-get > /dev/null; then
    say "no apt on this system; CMake will name what is missing. On Debian it would be:"
    say "${packages[*]}"
    return
  fi
  local missing=() package
  for package in "${packages[@]}"; do
    dpkg-query -W -f='${db:Status-Status}\n' "$package" 2> /dev/null | grep -qx installed || missing+=("$package")
  done
  if ((${#missing[@]} == 0)); then
    say "all ${#packages[@]} packages are installed"
    return
  fi
  local as_root=()
  if ((EUID != 0)); then
    command -v sudo > /dev/null || fail setup "packages are missing and there is neither root nor sudo." \
      "Ask an administrator to run: apt-get install ${missing[*]}"
    as_root=(sudo)
  fi
  say "installing with apt: ${missing[*]}"
  "${as_root[@]}" apt-get update -qq
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    "${missing[@]}" > /dev/null
}

# True where .venv holds the pinned versions and its programs run (a moved project breaks them).
venv_is_current() {
  cmp -s scripts/requirements.txt "$venv/qlora-requirements.txt" &&
    "$venv/bin/cmake" --version > /dev/null 2>&1 && "$venv/bin/ninja" --version > /dev/null 2>&1 &&
    compgen -G "$venv/lib/python3*/site-packages/torch/lib/libtorch_cpu.so" > /dev/null
}

install_venv() {
  if venv_is_current; then
    say ".venv is up to date"
    return
  fi
  python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    fail setup "$(python3 --version) is too old for the torch wheel, needed: 3.10 or later"
  local free_gb
  free_gb=$(df -Pk "$project" | awk 'NR == 2 {print int($4 / 1048576)}')
  if [[ ! -d $venv ]] && ((free_gb < 9)); then
    fail setup "$free_gb GB are free under $project, needed: 9 GB; make room, or move the project"
  fi
  say "installing into .venv with pip (about 2.6 GB to download, 5.5 GB on disk):"
  grep -v '^#' scripts/requirements.txt | sed 's/^/     /'
  if ! "$venv/bin/python" -c '' 2> /dev/null; then python3 -m venv --clear "$venv"; fi
  "$venv/bin/python" -m pip install -q --disable-pip-version-check -r scripts/requirements.txt
  if ! "$venv/bin/cmake" --version > /dev/null 2>&1 || ! "$venv/bin/ninja" --version > /dev/null 2>&1; then
    # shellcheck disable=SC2046  # two words are meant
    "$venv/bin/python" -m pip install -q --disable-pip-version-check --force-reinstall --no-deps \
      $(grep -E '^(cmake|ninja)==' scripts/requirements.txt)
  fi
  cp scripts/requirements.txt "$venv/qlora-requirements.txt"
}

install_tidy() {
  local file=scripts/requirements-tidy.txt
  cmp -s "$file" "$venv/qlora-requirements-tidy.txt" && return
  "$venv/bin/python" -m pip install -q --disable-pip-version-check --no-deps -r "$file"
  cp "$file" "$venv/qlora-requirements-tidy.txt"
}

# Major version of an nvcc, or nothing where it does not run.
nvcc_major() { "$1" --version 2> /dev/null | sed -n 's/.*release \([0-9]*\)\..*/\1/p'; }

installed_nvcc() {
  local candidate
  for candidate in "${CUDACXX:-}" "$(command -v nvcc || true)" "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" \
    /usr/local/cuda/bin/nvcc /usr/local/cuda-13*/bin/nvcc; do
    if [[ -x $candidate && $(nvcc_major "$candidate") == 13 ]]; then
      echo "$candidate"
      return
    fi
  done
}

# The compiler that wheel_nvcc put into .venv, where it is of the pinned version.
venv_nvcc() {
  local nvcc
  nvcc=$(compgen -G "$venv/lib/python3*/site-packages/nvidia/cu13/bin/nvcc") || return 0
  if cmp -s scripts/requirements-nvcc.txt "$venv/qlora-requirements-nvcc.txt"; then echo "$nvcc"; fi
}

# PyPI's compiler brings no unversioned library names, which the linker looks for.
wheel_nvcc() {
  local root library
  "$venv/bin/python" -m pip install -q --disable-pip-version-check -r scripts/requirements-nvcc.txt >&2 || return 0
  root=$(compgen -G "$venv/lib/python3*/site-packages/nvidia/cu13")
  for library in "$root"/lib/lib{cudart,cublas,cublasLt}.so.13; do
    if [[ -e $library ]]; then ln -sf "$(basename "$library")" "${library%.13}"; fi
  done
  if [[ $(nvcc_major "$root/bin/nvcc") == 13 ]]; then
    cp scripts/requirements-nvcc.txt "$venv/qlora-requirements-nvcc.txt"
    echo "$root/bin/nvcc"
  fi
}

find_nvcc() {
  local nvcc=''
  if ((want_cuda)); then
    nvcc=$(installed_nvcc)
    if [[ -z $nvcc ]]; then nvcc=$(venv_nvcc); fi
    if [[ -z $nvcc ]]; then
      say "no CUDA 13 toolkit here; installing PyPI's compiler into .venv (about 100 MB):"
      grep -v '^#' scripts/requirements-nvcc.txt | sed 's/^/     /'
      nvcc=$(wheel_nvcc)
    fi
  fi
  if [[ -n $nvcc ]]; then
    say "CUDA compiler: $nvcc"
  else
    say "the build goes without the CUDA module: everything runs on the CPU, and tests that compile or load" \
      "the module are skipped ($(grep -c '^no-cuda-module' tests/expected_skips.txt || true) in tests/expected_skips.txt)"
  fi
  echo "nvcc=$nvcc" > "$toolchain_file"
}

step 'setup: system packages' \
  "without a network, install the packages named above from a mirror; without root, ask an administrator" \
  install_packages
step 'setup: libtorch, CMake and Ninja in .venv' \
  "check the network (pip's own settings and proxies apply) and the free disk space, then run this again; delete .venv to start over" \
  install_venv
step 'setup: CUDA compiler' "run scripts/setup.sh --no-cuda to build without the CUDA module" find_nvcc
if ((full)); then
  step 'setup: clang-tidy in .venv' "check the network (pip's own settings and proxies apply), then run this again" install_tidy
fi
