#!/usr/bin/env bash
# This program and the Python stack (bitsandbytes, peft, transformers) on the same QLoRA work, in alternation.
# Prints tokens per CPU-second (median over the steps after the second), wall time from process start to the first step,
# peak RSS, and the ratios; checks the losses of the two sides against each other. About 12 minutes on an idle machine.
# usage: bench/peers/run.sh [--rounds 3] [--steps 12] [--rows bf16:1,bf16:2,fp32:1] [--only qlora|peer] [--json FILE]
set -euo pipefail
cd "$(dirname "$0")/../.."
scripts/setup_peers.sh --model
.venv-peers/bin/python tests/interop/make_peer_tokens.py
exec .venv-peers/bin/python bench/peers/compare.py "$@"
