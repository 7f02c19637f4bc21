#!/usr/bin/env bash
# What training on the grid recovers: an epoch of the quickstart's rows with and without section `qat`, 4 and 3 bits in groups of 64, exported;
# held-out perplexity of the plain run's adapter merged in 16 bits, rounded by RTN, GPTQ and AWQ, and of the run on the grid.
# Prints (PTQ - QAT) / (PTQ - merged) with mean and spread over the seeds; same data, same steps, same tokens. Keeps what is
# finished in runs/qat-recovery, by data set, so that it can be stopped and run again. Hours on two cores with three seeds.
# usage: bench/qat/run.sh [--seeds 1,2,3] [--bits 4,3] [--steps 250] [--qat KEY=VALUE]... [--name NAME] [--ptq rtn,gptq,awq] [--base auto]
# e.g. --qat qat.awq_scales=false --name plain-grid: the grid alone; DATA=datasets/wordnet bench/qat/run.sh --steps 60: the quickstart's own run
set -euo pipefail
cd "$(dirname "$0")/../.."
scripts/get_model.sh > /dev/null
[[ -f datasets/wordnet-1024/train.jsonl ]] || .venv/bin/python scripts/make_wordnet_dataset.py datasets/wordnet-1024 --heldout 1024
exec .venv/bin/python bench/qat/recovery.py "$@"
