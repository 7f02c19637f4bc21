"""Makes the work that this program and the Python peers share: token ids and the adapter that every run starts from.

    .venv-peers/bin/python tests/interop/make_peer_tokens.py [FOLDER]       default .cache/peers

Writes FOLDER/tokens.safetensors (`train` [532, 128], `heldout` [32, 128] i32: WordNet glosses as instruction pairs,
packed in blocks of 128) and FOLDER/init_adapter (PEFT, r 16, alpha 32, all seven projections, B = 0). Both come from
the peers' own packages, the Debian package wordnet-base and the model's tokenizer; SHA-256 of the tensor bytes says
whether they are the ones that the recorded losses belong to. Ends with status 1 where they are not.
"""

import hashlib
import json
import os
import pathlib
import random
import re
import sys

import quiet  # noqa: F401
import torch
from safetensors.torch import load_file, save_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODEL = pathlib.Path(os.environ.get("QLORA_HF_MODEL", ROOT / "models" / "smollm2-135m-hf"))
WORDNET = pathlib.Path("/usr/share/wordnet")
BLOCK_TOKENS, TRAIN_PAIRS, HELDOUT_PAIRS, HELDOUT_BLOCKS = 128, 2000, 200, 32

SHA256 = {
    "train": "daf435f38b707b27f82b574a847c38e1227826dca3dc32ac07ccb4af6a494303",
    "heldout": "44a493863f1207d279272e474823de4eb17a038ef23a19faa9d38e09ce342136",
    "init_adapter": "4a61eb7c16abef922ad6f5d363aaa850c58cac82edc3933e2950d9fc331b96e6",
}


def tensor_bytes(tensors: dict) -> str:
    """SHA-256 over the tensors' bytes in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(tensors[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def wordnet_pairs() -> list:
    """Word, part of speech and gloss of every synset whose first word is a plain one, in a fixed random order."""
    rows = []
    for part, file in (("noun", "data.noun"), ("verb", "data.verb"), ("adjective", "data.adj")):
        for line in (WORDNET / file).read_text(encoding="latin-1").splitlines():
            if line.startswith("  "):  # the licence text at the top
                continue
            synset, gloss = line.rstrip().split(" | ", 1)
            word = synset.split()[4]
            if re.fullmatch(r"[a-z]{4,14}", word):
                rows.append((word, part, gloss.strip()))
    random.Random(20260).shuffle(rows)
    return rows


def pack(pairs: list, tokenizer) -> torch.Tensor:
    ids = []
    for word, part, gloss in pairs:
        text = f'### Instruction:\nDefine the {part} "{word}".\n\n### Response:\n{gloss}'
        ids += tokenizer(text, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    blocks = len(ids) // BLOCK_TOKENS
    return torch.tensor(ids[: blocks * BLOCK_TOKENS], dtype=torch.int32).view(blocks, BLOCK_TOKENS)


def make_tokens(path: pathlib.Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    pairs = wordnet_pairs()
    train = pack(pairs[:TRAIN_PAIRS], tokenizer)
    heldout = pack(pairs[TRAIN_PAIRS : TRAIN_PAIRS + HELDOUT_PAIRS], tokenizer)[:HELDOUT_BLOCKS].clone()
    save_file({"train": train, "heldout": heldout}, path)


def make_adapter(folder: pathlib.Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    projections = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    torch.manual_seed(42)
    config = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, bias="none", task_type="CAUSAL_LM", target_modules=projections)
    model = get_peft_model(model, config)
    model.peft_config["default"].base_model_name_or_path = "smollm2-135m"
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    written = json.loads((folder / "adapter_config.json").read_text())
    written["target_modules"].sort()
    (folder / "adapter_config.json").write_text(json.dumps(written, indent=2) + "\n")


def digests(folder: pathlib.Path) -> dict:
    found = {}
    if (folder / "tokens.safetensors").exists():
        tokens = load_file(folder / "tokens.safetensors")
        found.update({name: tensor_bytes({name: tokens[name]}) for name in ("train", "heldout")})
    if (folder / "init_adapter" / "adapter_model.safetensors").exists():
        found["init_adapter"] = tensor_bytes(load_file(folder / "init_adapter" / "adapter_model.safetensors"))
    return found


def main() -> None:
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / ".cache" / "peers"
    if digests(folder) != SHA256:
        for needed, hint in ((MODEL / "tokenizer.json", "scripts/setup_peers.sh --model"), (WORDNET / "data.noun", "apt-get install wordnet-base")):
            if not needed.exists():
                sys.exit(f"[make_peer_tokens] {needed} is missing: run {hint}")
        folder.mkdir(parents=True, exist_ok=True)
        make_tokens(folder / "tokens.safetensors")
        make_adapter(folder / "init_adapter")
    found = digests(folder)
    for name, expected in SHA256.items():
        print(f"{'ok' if found.get(name) == expected else 'DIFFERS'} {name} {found.get(name)}")
    if found != SHA256:
        sys.exit("[make_peer_tokens] the bytes differ from the recorded ones: other package versions? (scripts/setup_peers.sh)")


if __name__ == "__main__":
    main()
