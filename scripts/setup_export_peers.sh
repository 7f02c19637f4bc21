#!/usr/bin/env bash
# Makes the two Python environments in which tests/interop/export_loaders.py and bench/ptq load what `qlora export` writes.
# The product itself never runs Python. Idempotent: a complete environment is left alone, a failed one is gone on with.
#   .venv-export    shares the packages of .venv-peers (torch 2.14, transformers 5.23, bitsandbytes) by a .pth file and adds
#                   gptqmodel, optimum, compressed-tensors, llama-cpp-python: 0.4 GB, about 15 CPU minutes (llama.cpp is compiled)
#   .venv-autoawq   AutoAWQ, which was given up in 2025 and needs torch 2.6 and transformers 4.51: 6 GB, about 5 minutes
# usage: scripts/setup_export_peers.sh [export] [autoawq]      default: both
# JOBS=N compiles with N processes (default 1: each takes up to 1 GB).
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
python=${PYTHON:-python3}
jobs=${JOBS:-1}

# What .venv-peers holds: pip may use it, never replace it.
shared_pins=(torch==2.14.1 numpy==2.4.6 transformers==5.23.0 accelerate==1.15.0 bitsandbytes==0.50.2 gguf==0.19.0
  safetensors==0.8.0 tokenizers==0.23.3)
export_wheels=(compressed-tensors==0.20.0 optimum==2.3.0)
gptqmodel_pin=gptqmodel==7.7.0
llama_pin=llama-cpp-python==0.3.36

autoawq_torch=(torch==2.6.0 "numpy<2.3" accelerate==1.6.0)
autoawq_pin=autoawq==0.2.9
# autoawq alone would take transformers 5, which it cannot work with; without IPEX it loads nothing on a CPU.
autoawq_after=(torch==2.6.0 transformers==4.51.3 "huggingface_hub<1" "datasets<4" "tokenizers<0.22" accelerate==1.6.0
  intel_extension_for_pytorch==2.6.0)

say() { echo "setup_export_peers: $*"; }
fail() { echo "[setup_export_peers] $1" >&2; exit 1; }

# step NAME HINT COMMAND...: runs the command and prints its seconds; HINT says what to do where it fails.
step() {
  local name=$1 hint=$2 begin=$SECONDS
  shift 2
  "$@" || fail "$name failed after $((SECONDS - begin)) s; $hint, then run this again: it goes on where it stopped"
  say "  $name: $((SECONDS - begin)) s"
}
index_hint='is the package index reachable (pip config list), and is there room on the disk (df -h)?'

# needs GB: room on the disk of the project.
needs() {
  local free
  free=$(df --output=avail -BG . | tail -n 1 | tr -dc 0-9)
  ((free >= $1)) || fail "$free GB are free here, $1 GB are needed; make room, or run one environment at a time"
}

is_complete() { [[ -f $1/.complete && $(<"$1/.complete") == "$2" ]]; }

site_of() { "$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }

# imports VENV MODULE...: every module loads, and its version is printed.
imports() {
  local venv=$1
  shift
  GPTQMODEL_CPU_WORKERS=2 CUDA_VISIBLE_DEVICES='' "$venv/bin/python" -W ignore - "$@" <<'PY'
import importlib, importlib.metadata, sys
for name in sys.argv[1:]:
    module, _, package = name.partition("=")
    importlib.import_module(module)
    print(f"    {package or module} {importlib.metadata.version(package or module)}")
PY
}

setup_export() {
  local venv=$root/.venv-export wanted="${shared_pins[*]} ${export_wheels[*]} $gptqmodel_pin $llama_pin"
  if is_complete "$venv" "$wanted"; then say '.venv-export is complete'; return; fi
  scripts/setup_peers.sh
  needs 2
  say 'making .venv-export: gptqmodel, optimum, compressed-tensors, llama-cpp-python (0.4 GB, about 15 CPU minutes)'
  [[ -x $venv/bin/python ]] || step 'python -m venv' 'install it with: apt-get install python3-venv' "$python" -m venv "$venv"
  local site constraints=$venv/constraints.txt
  site=$(site_of "$venv")
  # Both folders by name: a .pth file inside a folder that a .pth file names is not read.
  "$venv/bin/python" - "$site" "$(site_of "$root/.venv-peers")" > "$site/shared_peers.pth" <<'PY'
import os, pathlib, sys
site, peers = map(pathlib.Path, sys.argv[1:])
shared = peers / "shared_torch.pth"
for folder in [peers] + ([peers / shared.read_text().strip()] if shared.exists() else []):
    print(os.path.relpath(folder.resolve(), site))
PY
  printf '%s\n' "${shared_pins[@]}" > "$constraints"
  local pip=("$venv/bin/python" -m pip install --quiet --constraint "$constraints")
  step 'build tools' "$index_hint" "${pip[@]}" wheel setuptools ninja packaging
  step "${export_wheels[*]}" "$index_hint" "${pip[@]}" "${export_wheels[@]}"
  # No build isolation: its build reads the version of the torch that is there.
  step "$gptqmodel_pin" "$index_hint It is built from source: is a C++ compiler there (apt-get install g++ python3-dev)?" \
    env BUILD_CUDA_EXT=0 MAX_JOBS="$jobs" "${pip[@]}" --no-build-isolation "$gptqmodel_pin"
  step "$llama_pin" "it is compiled from source: is a C++ compiler there, and 1 GB of memory (apt-get install g++)?" \
    env CMAKE_ARGS=-DLLAVA_BUILD=OFF CMAKE_BUILD_PARALLEL_LEVEL="$jobs" "${pip[@]}" "$llama_pin"
  step 'imports' 'delete .venv-export' imports "$venv" torch transformers bitsandbytes compressed_tensors=compressed-tensors \
    optimum gptqmodel llama_cpp=llama-cpp-python
  printf '%s' "$wanted" > "$venv/.complete"
}

setup_autoawq() {
  local venv=$root/.venv-autoawq wanted="${autoawq_torch[*]} $autoawq_pin ${autoawq_after[*]}"
  if is_complete "$venv" "$wanted"; then say '.venv-autoawq is complete'; return; fi
  needs 12
  say 'making .venv-autoawq: AutoAWQ with torch 2.6 (6 GB, about 5 minutes)'
  "$python" -c 'import sys; sys.exit(not (3, 9) <= sys.version_info[:2] <= (3, 12))' \
    || fail "$("$python" --version): torch 2.6 with IPEX has wheels for Python 3.9 to 3.12; name one with PYTHON=python3.11"
  [[ -x $venv/bin/python ]] || step 'python -m venv' 'install it with: apt-get install python3-venv' "$python" -m venv "$venv"
  local pip=("$venv/bin/python" -m pip install --quiet)
  step 'torch 2.6' "$index_hint" "${pip[@]}" "${autoawq_torch[@]}" wheel 'setuptools<80'
  # AutoAWQ's own requirements, minus the versions that it would raise; it is plain Python.
  step "$autoawq_pin" "$index_hint" "${pip[@]}" --no-build-isolation --no-deps "$autoawq_pin"
  step 'transformers 4.51, IPEX' "$index_hint" "${pip[@]}" "${autoawq_after[@]}" "numpy<2.3" zstandard typing_extensions
  step 'imports' 'delete .venv-autoawq' imports "$venv" torch transformers intel_extension_for_pytorch awq=autoawq
  printf '%s' "$wanted" > "$venv/.complete"
}

parts=("$@")
[[ ${#parts[@]} -gt 0 ]] || parts=(export autoawq)
for part in "${parts[@]}"; do
  case $part in
    export) setup_export ;;
    autoawq) setup_autoawq ;;
    -h | --help) sed -n '2,9s/^# \{0,1\}//p' "$0" ;;
    *) fail "unknown argument '$part', allowed: export, autoawq" ;;
  esac
done
say ready
