"""Makes tests/fixtures/parity/smollm2_logits.safetensors: FP32 logits of SmolLM2-135M by transformers, in compact form.

    .venv-peers/bin/python tests/interop/make_smollm2_fixture.py   (after setup_peers.sh --model and make_peer_tokens.py)

The model is the GGUF with every weight rounded to BF16 (models/smollm2-135m-hf), computed in FP32. For 16 positions of
three held-out sequences it keeps the 64 largest logits with their ids, 256 columns spread over the vocabulary, and the
largest |logit|, by which errors are scaled. Also the NLL of those sequences, and the SHA-256 of three weights after loading.
"""

import hashlib
import json

import quiet  # noqa: F401
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from fixture_models import FIXTURES, ROOT, logits_of, single_thread

MODEL = ROOT / "models" / "smollm2-135m-hf"
TOKENS = ROOT / ".cache" / "peers" / "tokens.safetensors"
LENGTHS = (128, 57, 1)  # of held-out blocks 0, 1 and 2
POSITIONS = ([0, 1, 2, 15, 31, 63, 95, 126, 127], [0, 7, 28, 41, 55, 56], [0])
TOP, SAMPLED = 64, 256
HASHED_WEIGHTS = ("model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight", "model.layers.29.mlp.down_proj.weight")


def main() -> None:
    single_thread()
    bf16 = load_file(MODEL / "model.safetensors")
    hashes = {name: hashlib.sha256(bf16[name].view(torch.uint8).numpy().tobytes()).hexdigest() for name in HASHED_WEIGHTS}
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32, attn_implementation="eager").eval()
    heldout = load_file(TOKENS)["heldout"]
    columns = torch.arange(SAMPLED) * (model.config.vocab_size // SAMPLED) + torch.arange(SAMPLED) % 191
    tensors = {"columns": columns.to(torch.int32)}
    for i, (length, positions) in enumerate(zip(LENGTHS, POSITIONS)):
        tokens = heldout[i, :length].contiguous()
        logits = logits_of(model, tokens)
        kept = logits[positions]
        top = kept.topk(TOP)
        if length > 1:
            nll = torch.nn.functional.cross_entropy(logits[:-1].double(), tokens[1:].long(), reduction="sum")
            tensors[f"nll_sum_{i}"] = nll.reshape(1)
        tensors.update({
            f"tokens_{i}": tokens, f"positions_{i}": torch.tensor(positions, dtype=torch.int32),
            f"top_ids_{i}": top.indices.to(torch.int32), f"top_logits_{i}": top.values.contiguous(),
            f"column_logits_{i}": kept[:, columns].contiguous(), f"max_abs_{i}": kept.abs().amax(-1).contiguous(),
            f"logsumexp_{i}": kept.logsumexp(-1).contiguous(),
        })
    save_file(tensors, FIXTURES / "parity" / "smollm2_logits.safetensors", metadata={"weights_sha256": json.dumps(hashes)})
    for name, digest in hashes.items():
        print(name, digest)


if __name__ == "__main__":
    main()
