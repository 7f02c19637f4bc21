#!/usr/bin/env bash
# Everything that compares the built program with the Python peers; part of scripts/test.sh --full.
# Makes the peers' venv, the model and the shared work where they are missing. Each script prints one line a check.
# usage: tests/interop/run.sh [SCRIPT.py ...]       default: all;  QLORA_BIN names another program than build/bin/qlora
set -uo pipefail
cd "$(dirname "$0")/../.."
scripts/setup_peers.sh --model || exit 1
python=.venv-peers/bin/python
if [[ -z ${QLORA_REFERENCE_DIR:-} ]]; then
  "$python" tests/interop/make_peer_tokens.py || exit 1
fi
scripts=("$@")
[[ ${#scripts[@]} -gt 0 ]] || scripts=(peft_roundtrip.py tokenizer_parity.py peer_losses.py)
passed=0 failed=0
for script in "${scripts[@]}"; do
  begin=$SECONDS
  if "$python" "tests/interop/$script"; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
  echo "interop $script: $((SECONDS - begin)) s"
done
echo "interop: $passed passed, $failed failed"
[[ $failed -eq 0 ]]
