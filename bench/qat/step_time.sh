#!/usr/bin/env bash
# What a step on the grid costs against plain LoRA: the quickstart's steps over the 16-bit base, without section `qat` and with
# each kind of `scales` at 4 bits in groups of 64, in alternation. Prints step time and peak memory as ratios; fails above 1.4
# (minmax), 1.75 (clip, learned, anchored) and 1.1 (memory). Some minutes on two idle cores. usage: bench/qat/step_time.sh [--steps 10] [--rounds 2]
set -euo pipefail
cd "$(dirname "$0")/../.."
scripts/get_model.sh > /dev/null
[[ -f datasets/wordnet-1024/train.jsonl ]] || .venv/bin/python scripts/make_wordnet_dataset.py datasets/wordnet-1024 --heldout 1024
exec .venv/bin/python bench/qat/step_time.py "$@"
