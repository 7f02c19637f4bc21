# shellcheck shell=bash disable=SC2034
# Shared by the scripts beside it: where things are, and how a step speaks. Sourced, not run.
set -euo pipefail
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv="$project/.venv"
toolchain_file="$venv/qlora-toolchain"  # written by setup.sh: nvcc=PATH or nvcc=
cd "$project"

say() { printf '   %s\n' "$*"; }
fail() {  # fail WHERE WHAT...: the same form as the program's own errors
  local where=$1
  shift
  printf '[%s] %s\n' "$where" "$*" >&2
  exit 1
}

# step NAME HINT COMMAND...: runs the command, prints its seconds; on failure prints HINT and stops.
step() {
  local name=$1 hint=$2 begin=$SECONDS status=0
  shift 2
  printf '\n== %s\n' "$name"
  set +e  # a plain `if "$@"` would switch errexit off inside the command
  (set -e && "$@")
  status=$?
  set -e
  if ((status != 0)); then
    printf '== %s failed after %d s (exit code %d)\n' "$name" $((SECONDS - begin)) "$status" >&2
    printf '   What to do: %s\n' "$hint" >&2
    exit "$status"
  fi
  printf '== %s: %d s\n' "$name" $((SECONDS - begin))
}

# Parallel jobs: one per core, and 2 GB of free memory for each (a torch file takes that much).
job_count() {
  local cores free_gb
  cores=$(nproc)
  free_gb=$(awk '/MemAvailable/ {print int($2 / 1048576)}' /proc/meminfo)
  local by_memory=$((free_gb / 2))
  ((by_memory < 1)) && by_memory=1
  echo $((cores < by_memory ? cores : by_memory))
}

# The nvcc that setup.sh settled on; empty where the build goes without the CUDA module.
toolchain_nvcc() {
  if [[ -f $toolchain_file ]]; then sed -n 's/^nvcc=//p' "$toolchain_file"; fi
}
