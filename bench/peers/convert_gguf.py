"""Writes the GGUF of SmolLM2 as the BF16 Hugging Face checkpoint that the peers read.

    .venv-peers/bin/python bench/peers/convert_gguf.py [FOLDER_WITH_GGUF] [TARGET]

The GGUF holds Q4_1 weights and a Q8_0 embedding; transformers dequantizes them in FP32 and rounds once to BF16,
which is what `qlora` does when it loads the same GGUF with weights rounded to BF16.
"""

import pathlib
import shutil
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
from transformers.utils import logging

ROOT = pathlib.Path(__file__).resolve().parents[2]
PARAMETERS = 134_515_008


def convert(source: pathlib.Path, target: pathlib.Path) -> None:
    ggufs = sorted(source.glob("*.gguf"))
    if len(ggufs) != 1:
        sys.exit(f"[convert_gguf] {source} holds {len(ggufs)} GGUF files, needed 1: run scripts/setup_peers.sh --model")
    logging.disable_progress_bar()
    # An explicit dequantization: otherwise transformers may keep the packed tensors for its own kernels.
    model = AutoModelForCausalLM.from_pretrained(
        source, gguf_file=ggufs[0].name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    count = sum(p.numel() for p in model.parameters())
    if count != PARAMETERS:
        sys.exit(f"[convert_gguf] {ggufs[0].name} gave {count} parameters, expected {PARAMETERS}")
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    AutoTokenizer.from_pretrained(source, gguf_file=ggufs[0].name).save_pretrained(partial)
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)


def main() -> None:
    models = ROOT / "models"
    source = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else models / "smollm2-135m"
    target = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else models / "smollm2-135m-hf"
    if (target / "model.safetensors").exists():
        print(f"{target} exists")
        return
    convert(source, target)
    print(f"wrote {target}")


if __name__ == "__main__":
    main()
