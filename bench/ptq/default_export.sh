#!/usr/bin/env bash
# The default export (AWQ, 4 bits) of SmolLM2-135M on rows that are all longer than its 1,500 tokens, made of the WordNet data
# set: prints the time, with what was left block by block, and the peak memory of the whole command. 13 minutes on two idle
# cores with the default number of rows. usage: bench/ptq/default_export.sh [ROWS, default 512]
set -euo pipefail
cd "$(dirname "$0")/../.."
scripts/get_model.sh > /dev/null
[[ -f datasets/wordnet/train.jsonl ]] || .venv/bin/python scripts/make_wordnet_dataset.py datasets/wordnet
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
.venv/bin/python - datasets/wordnet/train.jsonl "$work/rows.jsonl" "${1:-512}" << 'PY'
import itertools, json, sys

pairs = [json.loads(line) for line in open(sys.argv[1], encoding="utf-8")]
lines = itertools.cycle(f"{pair['instruction']} {pair['output']}" for pair in pairs)
with open(sys.argv[2], "w", encoding="utf-8") as rows:
    for _ in range(int(sys.argv[3])):
        row = ""
        while len(row) < 7500:  # characters: more than 1,500 tokens
            row += next(lines) + "\n"
        rows.write(json.dumps({"text": row}) + "\n")
PY
build/bin/qlora export --model-path models/smollm2-135m/*.gguf --dataset-name "$work/rows.jsonl" --output-dir "$work/out" \
  --calibration-samples "${1:-512}" --set export.evaluate=false
