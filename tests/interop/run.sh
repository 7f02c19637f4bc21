#!/usr/bin/env bash
# Everything that compares the built program with the Python peers; ctest's label `interop`, part of scripts/test.sh --full.
# Makes the peers' venv, the model and the shared work where they are missing. Each check prints one line.
# The checks of exports need the environments of scripts/setup_export_peers.sh as well and are skipped by name without them.
# usage: tests/interop/run.sh [peft_roundtrip] [family_exports] [tokenizer_parity] [trained_tokenizers] [chat_templates]
#                             [peer_losses] [export_quality] [export_clients] [export_autoawq] [export_smollm2]        default: all
# QLORA_BIN, QLORA_TOKENIZE_TOOL and QLORA_TEMPLATE_TOOL name other programs than those in build/.
set -uo pipefail
cd "$(dirname "$0")/../.."
scripts/setup_peers.sh --model || exit 1
python=.venv-peers/bin/python
export QLORA_BIN=${QLORA_BIN:-$PWD/build/bin/qlora}
tokenize_tool=${QLORA_TOKENIZE_TOOL:-$PWD/build/tests/tokenize_tool}
template_tool=${QLORA_TEMPLATE_TOOL:-$PWD/build/tests/template_tool}

# Packages that carry published chat templates, beside the peers: read, never run.
template_packages() {
  local folder=$PWD/.venv-peers/template-packages
  [[ -f $folder/.complete ]] && return
  rm -rf "$folder"
  "$python" -m pip install -q --no-deps --target "$folder" trl==1.16.0 axolotl==0.19.0 guidance==0.3.1 \
    unsloth==2026.10.9 && touch "$folder/.complete"
}

run() {
  case $1 in
    tokenizer_parity) "$python" tests/interop/tokenizer_parity.py "$tokenize_tool" --gguf models/smollm2-135m/*.gguf ;;
    trained_tokenizers) "$python" tests/interop/trained_tokenizers.py "$tokenize_tool" ;;
    chat_templates)
      template_packages || return 1
      "$python" -W ignore tests/interop/chat_templates.py "$template_tool" --packages .venv-peers/template-packages ;;
    peer_losses)
      # The shared work is made here unless a folder with the recorded one is named.
      [[ -n ${QLORA_REFERENCE_DIR:-} ]] || "$python" tests/interop/make_peer_tokens.py || return 1
      "$python" tests/interop/peer_losses.py ;;
    export_quality) "$python" tests/interop/make_peer_tokens.py && "$python" tests/interop/export_quality.py ;;
    peft_roundtrip) "$python" tests/interop/peft_roundtrip.py ;;
    family_exports) "$python" tests/interop/family_exports.py ;;
    export_clients) "$python" tests/interop/export_loaders.py --clients transformers,gptqmodel,llamacpp ;;
    export_autoawq) "$python" tests/interop/export_loaders.py --clients autoawq ;;
    export_smollm2) "$python" tests/interop/export_loaders.py --model smollm2 ;;
    *) echo "run.sh: unknown check $1"; return 1 ;;
  esac
}

checks=("$@")
[[ ${#checks[@]} -gt 0 ]] || checks=(peft_roundtrip family_exports tokenizer_parity trained_tokenizers chat_templates peer_losses export_clients export_autoawq export_smollm2)
all_skipped=77 # as ctest's SKIP_RETURN_CODE
failed=0 skipped=0
for check in "${checks[@]}"; do
  begin=$SECONDS status=0
  run "$check" || status=$?
  case $status in
    0) result=ok ;;
    "$all_skipped") result=skipped skipped=$((skipped + 1)) ;;
    *) result=FAILED failed=$((failed + 1)) ;;
  esac
  echo "interop $check: $result, $((SECONDS - begin)) s"
done
((failed == 0)) || exit 1
((skipped < ${#checks[@]})) || exit "$all_skipped"
