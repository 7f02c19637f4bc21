"""Tiny random Llama models and small file helpers, shared by the fixture generators of this folder."""

import json
import pathlib

import quiet  # noqa: F401
import torch
from transformers import LlamaConfig, LlamaForCausalLM

ROOT = pathlib.Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests" / "fixtures"
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def single_thread() -> None:
    """One thread and no fused surprises: the same bytes on every run."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)


def random_llama(config: LlamaConfig, seed: int, dtype: torch.dtype) -> LlamaForCausalLM:
    """A model whose attention and norms matter: activations of order 1, norm weights spread around 1.

    The weights are exact in `dtype`; the model itself is FP32, so that its logits are the FP32 reference.
    """
    config._attn_implementation = "eager"
    model = LlamaForCausalLM(config).float().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = torch.randn(parameter.shape, generator=generator)
            if "norm" in name:
                values = 1 + 0.2 * values
            elif name.endswith("bias"):
                values = 0.3 * values
            elif "embed_tokens" not in name or config.tie_word_embeddings:
                values = values / parameter.shape[1] ** 0.5
            parameter.copy_(values.to(dtype).float())
    return model


def random_tokens(length: int, vocab: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randint(3, vocab, (length,), generator=generator)


@torch.no_grad()
def logits_of(model, tokens: torch.Tensor) -> torch.Tensor:
    """[T, V] FP32, of one sequence alone, without cache."""
    return model(input_ids=tokens[None].long(), use_cache=False).logits[0].float().contiguous()


def write_json(path: pathlib.Path, value) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=False) + "\n")
