"""PEFT adapters go both ways: peft reads what qlora wrote, qlora reads what peft wrote, and both compute the same.

    .venv-peers/bin/python tests/interop/peft_roundtrip.py

Works on the tiny models of tests/fixtures/parity, in FP32 and without quantization, so that nothing but the adapter
can differ. The measure is the NLL of a token file: `qlora perplexity` against transformers + peft.
"""

import json
import pathlib
import re

import quiet  # noqa: F401
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

import checks

PARITY = checks.ROOT / "tests" / "fixtures" / "parity"
NLL_TOLERANCE = 2e-5
BLOCKS, BLOCK_TOKENS = 6, 24
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
MINIMAL_KEYS = {"peft_type", "task_type", "r", "lora_alpha", "lora_dropout", "target_modules", "bias", "base_model_name_or_path"}

# What the line has to name for each folder of tests/fixtures/parity/refused.
REFUSED_NAMES = {
    "dora": "dora", "modules_to_save": "modules_to_save|saved modules", "bias_lora_only": r"\bbias\b", "lora_bias": "lora_bias|bias",
    "trainable_tokens": "trainable_token", "resized_vocabulary": "vocabulary|embed_tokens",
}

# What qlora trains: settings of `lora`, equal in name and meaning to those of peft.LoraConfig.
WRITTEN = {
    "all_linear": dict(target_modules="all-linear", r=4, lora_alpha=8),
    "q_v": dict(target_modules=["q_proj", "v_proj"], r=3, lora_alpha=5),
    "regex": dict(target_modules=r".*\.1\.(self_attn|mlp)\.(o|up)_proj", r=4, lora_alpha=8),
    "patterns": dict(target_modules=LINEARS, r=4, lora_alpha=8, rank_pattern={"down_proj": 6, "0.self_attn.q_proj": 2},
                     alpha_pattern={"down_proj": 12, "o_proj": 7.5}),
    "rslora": dict(target_modules="all-linear", r=4, lora_alpha=8, use_rslora=True),
}


torch.set_num_threads(1)  # tiny models: threads would wait for one another


def load_base(name: str):
    return AutoModelForCausalLM.from_pretrained(PARITY / "models" / name, dtype=torch.float32).eval()


@torch.no_grad()
def peer_nll(model, blocks) -> float:
    total = 0.0
    for block in blocks.long():
        logits = model(input_ids=block[None], use_cache=False).logits[0, :-1]
        total += torch.nn.functional.cross_entropy(logits, block[1:], reduction="sum").double().item()
    return total / (blocks.shape[0] * (blocks.shape[1] - 1))


def scales_of(model) -> dict:
    """Module name -> alpha / r as peft computes it: also says which modules have an adapter."""
    return {n: m.scaling["default"] for n, m in model.named_modules() if isinstance(m, LoraLayer)}


def make_tokens(path: pathlib.Path) -> torch.Tensor:
    generator = torch.Generator().manual_seed(90)
    blocks = torch.randint(3, 120, (BLOCKS, BLOCK_TOKENS), generator=generator, dtype=torch.int32)
    save_file({"blocks": blocks}, path)
    return blocks


def qlora_nll(base: str, tokens: pathlib.Path, *more) -> float:
    return checks.perplexity("--model-path", PARITY / "models" / base, "--tokens", f"{tokens}:blocks", "--compute-dtype", "fp32", "--threads", "1",
                             "--set", "lora.adapter_dtype=fp32", *more)["nll"]


def training(base: str, tokens: pathlib.Path, lora: dict, steps: int, batch: int) -> dict:
    return {
        "model_name_or_path": str(PARITY / "models" / base), "compute_dtype": "fp32", "device": "cpu", "threads": 1,
        "quantization": {"load_in_4bit": False},
        "lora": lora,
        "data": {"tokens": {"file": str(tokens), "train": "blocks"}, "loss_on": "all"},
        "max_steps": steps, "per_device_train_batch_size": batch, "shuffle": False, "optim": "adamw_torch", "learning_rate": 0.02,
        "lr_scheduler_type": "constant", "max_grad_norm": 0.0, "save_strategy": "no", "report_to": ["none"],
    }


def check_written(check, scratch, tokens, blocks, name: str, settings: dict, dtype: str, base: str = "plain") -> None:
    """Train a few steps with qlora, then let peft load the result over the same base."""
    label = f"qlora wrote {name}, {dtype}, over {base}"
    config = training(base, tokens, {**settings, "lora_dropout": 0.0, "adapter_dtype": dtype}, steps=4, batch=2)
    run = f"{name}_{dtype}_{base}"
    checks.train(config, scratch, run)
    folder = scratch / run

    written = json.loads((folder / "adapter_config.json").read_text())
    check.expect(f"{label}: config keys", MINIMAL_KEYS <= set(written) and written["peft_type"] == "LORA", ", ".join(sorted(MINIMAL_KEYS - set(written))))
    # The oracle of names and shapes is peft's own model with the same settings.
    expected = get_peft_model(load_base(base), LoraConfig(task_type="CAUSAL_LM", **settings))
    shapes = {n.replace(".default", ""): tuple(p.shape) for n, p in expected.named_parameters() if "lora_" in n}
    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        found = {n: tuple(file.get_tensor(n).shape) for n in file.keys()}
        dtypes = {file.get_tensor(n).dtype for n in file.keys()}
        moved = all(file.get_tensor(n).abs().max() > 0 for n in file.keys() if "lora_B" in n)
    check.expect(f"{label}: tensor names and shapes", found == shapes, f"{len(found)} tensors, {len(set(found) ^ set(shapes))} names differ")
    check.expect(f"{label}: tensor type", dtypes == {DTYPES[dtype]}, str(dtypes))
    check.expect(f"{label}: every B was trained", moved)

    model = PeftModel.from_pretrained(load_base(base), folder)
    scales = scales_of(model)
    check.expect(f"{label}: scales", scales == scales_of(expected), f"{len(scales)} modules")
    nll = peer_nll(model, blocks)
    check.expect_close(f"{label}: NLL", qlora_nll(base, tokens, "--adapter", folder), nll, NLL_TOLERANCE)
    check.expect(f"{label}: the adapter matters", abs(nll - peer_nll(load_base(base), blocks)) > 0.01)


def check_read(check, scratch, tokens, blocks, folder: pathlib.Path) -> None:
    """peft's folder through `--adapter`, and as the start of a training whose first loss is the same."""
    label = f"qlora reads {folder.name}"
    nll = peer_nll(PeftModel.from_pretrained(load_base("plain"), folder), blocks)
    check.expect_close(f"{label}: NLL", qlora_nll("plain", tokens, "--adapter", folder), nll, NLL_TOLERANCE)
    check.expect(f"{label}: the adapter matters", abs(nll - peer_nll(load_base("plain"), blocks)) > 100 * NLL_TOLERANCE)
    config = training("plain", tokens, dict(init_adapter=str(folder), adapter_dtype="fp32"), steps=1, batch=BLOCKS)
    first = checks.train(config, scratch, f"from_{folder.name}")[0]
    check.expect_close(f"{label}: first loss of a training from it", first["loss"], nll, NLL_TOLERANCE)
    # What was read must still be there when it is written again: ranks, scales and which layers.
    continued = scratch / f"from_{folder.name}"
    again = PeftModel.from_pretrained(load_base("plain"), continued)
    check.expect(f"{label}: and writes its scales", scales_of(again) == scales_of(PeftModel.from_pretrained(load_base("plain"), folder)))
    check.expect_close(f"{label}: NLL of what it writes", qlora_nll("plain", tokens, "--adapter", continued), peer_nll(again, blocks), NLL_TOLERANCE)


def check_refused(check, tokens, folder: pathlib.Path) -> None:
    result = checks.qlora("perplexity", "--model-path", PARITY / "models" / "plain", "--adapter", folder, "--tokens", f"{tokens}:blocks")
    # Where there is no GPU, a line before says so.
    lines = [line for line in result.stderr.strip().splitlines() if not line.startswith("device: ")]
    line = lines[0] if lines else ""
    check.expect(f"refuses {folder.name} with status 2 and one line", result.returncode == 2 and len(lines) == 1, f"status {result.returncode}: {result.stderr[-200:]}")
    check.expect(f"refuses {folder.name} by name", re.search(REFUSED_NAMES[folder.name], line, re.IGNORECASE), REFUSED_NAMES[folder.name])


def main() -> None:
    check = checks.Checks("peft_roundtrip")
    scratch = checks.scratch_folder()
    tokens = scratch / "tokens.safetensors"
    blocks = make_tokens(tokens)
    for base in ("plain", "tied", "attention_bias", "head_dim_32"):
        check.expect_close(f"base {base}: NLL", qlora_nll(base, tokens), peer_nll(load_base(base), blocks), NLL_TOLERANCE)
    for name, settings in WRITTEN.items():
        check_written(check, scratch, tokens, blocks, name, settings, "fp32")
    for dtype in ("fp16", "bf16"):
        check_written(check, scratch, tokens, blocks, "all_linear", WRITTEN["all_linear"], dtype)
    for base in ("tied", "attention_bias", "head_dim_32"):
        check_written(check, scratch, tokens, blocks, "all_linear", WRITTEN["all_linear"], "fp32", base)
    for folder in sorted((PARITY / "adapters").iterdir()):
        check_read(check, scratch, tokens, blocks, folder)
    for folder in sorted((PARITY / "refused").iterdir()):
        check_refused(check, tokens, folder)
    check.finish()


if __name__ == "__main__":
    main()
