#!/usr/bin/env bash
# `qlora export` beside GPTQModel 7.7.0 and AutoAWQ 0.2.9 (its bug patched): SmolLM2-135M, 4 bits, groups of 64, the same
# calibration tokens, two threads, in alternation. Prints wall time, CPU time and peak RSS of the whole processes, the ratios,
# and the held-out perplexity (FP32, 32 x 127 predictions) of the weights that each side's files decode to.
# Ends with 1 where a side-by-side ratio misses its limit: half of the peer's wall time, a third of its memory.
# About 8 minutes on two idle cores. usage: bench/ptq/run.sh [--rounds 1] [--rows 'gptq asym,awq'] [--only qlora|peer] [--json FILE]
set -euo pipefail
cd "$(dirname "$0")/../.."
scripts/setup_peers.sh --model
scripts/setup_export_peers.sh
.venv-peers/bin/python tests/interop/make_peer_tokens.py
exec .venv-peers/bin/python bench/ptq/compare.py "$@"
