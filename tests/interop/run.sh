#!/usr/bin/env bash
# Everything that compares the built program with the Python peers; ctest's label `interop`, part of scripts/test.sh --full.
# Makes the peers' venv, the model and the shared work where they are missing. Each check prints one line.
# usage: tests/interop/run.sh [peft_roundtrip] [tokenizer_parity] [peer_losses]      default: all
# QLORA_BIN and QLORA_TOKENIZE_TOOL name other programs than those in build/.
set -uo pipefail
cd "$(dirname "$0")/../.."
scripts/setup_peers.sh --model || exit 1
python=.venv-peers/bin/python
export QLORA_BIN=${QLORA_BIN:-$PWD/build/bin/qlora}
tokenize_tool=${QLORA_TOKENIZE_TOOL:-$PWD/build/tests/tokenize_tool}

run() {
  case $1 in
    tokenizer_parity) "$python" tests/interop/tokenizer_parity.py "$tokenize_tool" --gguf models/smollm2-135m/*.gguf ;;
    peer_losses)
      # The shared work is made here unless a folder with the recorded one is named.
      [[ -n ${QLORA_REFERENCE_DIR:-} ]] || "$python" tests/interop/make_peer_tokens.py || return 1
      "$python" tests/interop/peer_losses.py ;;
    peft_roundtrip) "$python" tests/interop/peft_roundtrip.py ;;
    *) echo "run.sh: unknown check $1"; return 1 ;;
  esac
}

checks=("$@")
[[ ${#checks[@]} -gt 0 ]] || checks=(peft_roundtrip tokenizer_parity peer_losses)
failed=0
for check in "${checks[@]}"; do
  begin=$SECONDS
  run "$check" && result=ok || { result=FAILED; failed=$((failed + 1)); }
  echo "interop $check: $result, $((SECONDS - begin)) s"
done
exit $((failed > 0))
