"""Makes tests/fixtures/parity/families: tiny random checkpoints of every family, with logits, gradients and losses of the peers.

    .venv-peers/bin/python tests/interop/make_family_fixtures.py [CASE...]      default: all

Deterministic: a second run writes the same bytes. Each folder holds config.json and model.safetensors as transformers writes
them, and reference.safetensors: two sequences with their logits (the second is longer than any window and than the original
positions), an adapter (in adapter/) with its loss and gradients, and init_adapter/ with the losses of five AdamW steps.
"""

import dataclasses
import json
import pathlib
import shutil
import sys
import tempfile

import quiet  # noqa: F401  (before the peers)
import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file

from fixture_models import FIXTURES, random_tokens, single_thread, write_json

TARGET = FIXTURES / "parity" / "families"
LENGTHS = (9, 44)
GRADIENT_LENGTHS = (7, 27)
STEPS, STEP_LENGTH, RATE = 5, 20, 5e-3
IGNORE = -100

BASE = dict(vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            max_position_embeddings=128, bos_token_id=1, eos_token_id=2, pad_token_id=0)  # fmt: skip
GEMMA = dict(head_dim=16, query_pre_attn_scalar=24, sliding_window=16)
LONGROPE = dict(rope_type="longrope", rope_theta=10000.0, original_max_position_embeddings=32,
                short_factor=[1.0, 1.1, 1.3], long_factor=[1.5, 2.5, 7.0])  # fmt: skip
LLAMA3 = dict(rope_type="llama3", rope_theta=500.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)


@dataclasses.dataclass
class Case:
    name: str
    config: str  # class in transformers
    settings: dict
    model: str = ""  # class in transformers; default: the config's causal language model
    old_form: bool = False  # config.json with the keys of transformers 4

    def model_class(self):
        return getattr(transformers, self.model or self.config.replace("TextConfig", "Config").replace("Config", "ForCausalLM"))


CASES = [
    Case("llama3", "LlamaConfig", dict(rope_parameters=LLAMA3, tie_word_embeddings=True), old_form=True),
    Case("mistral", "MistralConfig", dict(sliding_window=16, rms_norm_eps=1e-5)),
    Case("qwen2", "Qwen2Config", dict(tie_word_embeddings=True), old_form=True),
    Case("qwen2_window", "Qwen2Config", dict(use_sliding_window=True, sliding_window=12, max_window_layers=1)),
    Case("qwen3", "Qwen3Config", dict(head_dim=16, tie_word_embeddings=True)),
    Case("qwen3_moe", "Qwen3MoeConfig", dict(head_dim=8, num_experts=6, num_experts_per_tok=3, moe_intermediate_size=24, norm_topk_prob=True,
                                             num_hidden_layers=3, mlp_only_layers=[1])),  # fmt: skip
    Case("gemma2", "Gemma2Config", dict(GEMMA, attn_logit_softcapping=3.0, final_logit_softcapping=4.0)),
    Case("gemma3", "Gemma3TextConfig", dict(GEMMA, num_hidden_layers=3, sliding_window_pattern=3, rope_parameters={
        "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e6}, "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}),
         old_form=True),  # fmt: skip
    Case("gemma3_multimodal", "Gemma3Config", {}, model="Gemma3ForConditionalGeneration"),
    Case("phi3", "Phi3Config", dict(sliding_window=16)),
    Case("phi3_longrope", "Phi3Config", dict(rope_parameters=dict(LONGROPE, partial_rotary_factor=0.75), original_max_position_embeddings=32,
                                             num_key_value_heads=4), old_form=True),  # fmt: skip
    Case("smollm3", "SmolLM3Config", dict(num_hidden_layers=3, no_rope_layer_interval=2, rope_parameters=dict(rope_type="default", rope_theta=5e4))),
    Case("smollm3_window", "SmolLM3Config", dict(no_rope_layer_interval=2, use_sliding_window=True, sliding_window=14, attention_bias=True)),
    Case("mixtral", "MixtralConfig", dict(num_local_experts=4, num_experts_per_tok=2)),
]

# The linears of attention and MLP. Where a name could mean an expert, peft makes tensors of its own for all of them.
PROJECTIONS = r".*\.(q_proj|k_proj|v_proj|qkv_proj|o_proj|gate_proj|up_proj|gate_up_proj|down_proj)"


def config_of(case: Case, sizes: dict):
    if case.model == "Gemma3ForConditionalGeneration":
        text = dict(sizes, **dict(GEMMA, **case.settings), num_hidden_layers=2)
        vision = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=8, patch_size=4)
        return transformers.Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=90, boi_token_index=91,
                                         eoi_token_index=92, eos_token_id=[2, 3])  # fmt: skip
    return getattr(transformers, case.config)(**{**sizes, **case.settings})


def random_model(case: Case, seed: int, sizes: dict = BASE):
    """Activations of order 1, norms spread around what leaves numbers as they are; exact in BF16, held in FP32."""
    config = config_of(case, sizes)
    config._attn_implementation = "eager"
    model = case.model_class()(config).float().eval()
    generator = torch.Generator().manual_seed(seed)
    gemma = case.name.startswith("gemma")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = torch.randn(parameter.shape, generator=generator)
            if "norm" in name:
                values = (0.0 if gemma and "vision" not in name else 1.0) + 0.2 * values
            elif name.endswith("bias"):
                values = 0.3 * values
            elif "embed_tokens" in name and gemma:
                values = values / parameter.shape[1] ** 0.5  # the model scales them up again
            elif "embed_tokens" not in name or config.tie_word_embeddings:
                values = values / parameter.shape[-1] ** 0.5
            parameter.copy_(values.bfloat16().float())
    return model


def logits_of(model, tokens: torch.Tensor) -> torch.Tensor:
    return model(input_ids=tokens[None].long(), use_cache=False).logits[0].float().contiguous()


def old_form(config: dict) -> dict:
    """The keys that transformers 4 wrote."""
    old = {k: v for k, v in config.items() if k not in ("rope_parameters", "dtype", "layer_types", "transformers_version")}
    rope = dict(config["rope_parameters"])
    if "full_attention" in rope:
        old["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        rope = dict(rope["full_attention"])
        old["sliding_window_pattern"] = 3
    old["rope_theta"] = rope.pop("rope_theta")
    rope.pop("partial_rotary_factor", None)
    if config["rope_parameters"].get("partial_rotary_factor"):
        old["partial_rotary_factor"] = config["rope_parameters"]["partial_rotary_factor"]
    kind = rope.pop("rope_type")
    if kind != "default":
        if config["model_type"] == "phi3":  # beside the object
            rope.pop("original_max_position_embeddings")
        old["rope_scaling"] = {"rope_type": kind, **rope}
    old["torch_dtype"] = config["dtype"]
    old["transformers_version"] = "4.50.0"
    return old


def wrap(case: Case, model, seed: int, b_std: float):
    targets = r".*self_attn\.[qkvo]_proj" if "moe" in case.name else PROJECTIONS
    torch.manual_seed(seed)
    wrapped = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=4, lora_dropout=0.0, target_modules=targets,
                                               exclude_modules=r".*vision.*"))  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.copy_(b_std * torch.randn(parameter.shape, generator=generator))
    return wrapped


def canonical(name: str) -> str:
    """The name in qlora's adapter files: that of the text model alone."""
    return name.replace(".default", "").replace("model.model.language_model.", "model.model.")


def save_adapter(model, folder: pathlib.Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {canonical(n): p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    save_file(tensors, folder / "adapter_model.safetensors")
    modules = sorted({n.split(".lora_")[0].removeprefix("base_model.model.") for n in tensors})
    write_json(folder / "adapter_config.json", {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "", "r": 2, "lora_alpha": 4,
                                                "lora_dropout": 0.0, "bias": "none", "target_modules": modules})  # fmt: skip


def masked(length: int, generator: torch.Generator):
    tokens = random_tokens(length, BASE["vocab_size"], generator)
    targets = torch.cat([tokens[1:], torch.tensor([IGNORE])])
    targets[torch.rand(length, generator=generator) < 0.3] = IGNORE
    return tokens, targets


def summed_loss(model, tokens, targets):
    logits = model(input_ids=tokens[None].long(), use_cache=False).logits[0]
    return torch.nn.functional.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="sum")


def add_gradients(case: Case, seed: int, folder: pathlib.Path, reference: dict) -> float:
    model = wrap(case, random_model(case, seed), seed, 0.3).train()
    save_adapter(model, folder / "adapter")
    generator = torch.Generator().manual_seed(3000 + seed)
    sequences = [masked(length, generator) for length in GRADIENT_LENGTHS]
    count = sum(int((targets != IGNORE).sum()) for _, targets in sequences)
    loss = sum(summed_loss(model, *s) for s in sequences) / count
    loss.backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            reference["gradient." + canonical(name)] = parameter.grad.clone()
    for i, (tokens, targets) in enumerate(sequences):
        reference[f"gradient_tokens_{i}"], reference[f"gradient_targets_{i}"] = tokens.to(torch.int32), targets.to(torch.int32)
    return loss.item()


def five_losses(case: Case, seed: int, folder: pathlib.Path, reference: dict) -> list:
    """Losses of plain AdamW steps over two sequences each, from an adapter whose B is zero."""
    model = wrap(case, random_model(case, seed), seed, 0.0).train()
    save_adapter(model, folder / "init_adapter")
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=RATE, weight_decay=0.0)
    generator = torch.Generator().manual_seed(4000 + seed)
    losses, rows = [], []
    for _ in range(STEPS):
        sequences = [masked(STEP_LENGTH, generator) for _ in range(2)]
        count = sum(int((targets != IGNORE).sum()) for _, targets in sequences)
        loss = sum(summed_loss(model, *s) for s in sequences) / count
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        rows += sequences
    reference["step_tokens"] = torch.stack([t for t, _ in rows]).to(torch.int32)
    reference["step_targets"] = torch.stack([t for _, t in rows]).to(torch.int32)
    return losses


def check_reloads(case: Case, folder: pathlib.Path, config: dict, tokens, expected) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        copy = pathlib.Path(scratch) / "model"
        shutil.copytree(folder, copy)
        write_json(copy / "config.json", config)
        model = case.model_class().from_pretrained(copy, dtype=torch.float32, attn_implementation="eager")
        if not torch.equal(logits_of(model.eval(), tokens), expected):
            raise SystemExit(f"{case.name}: a reloaded checkpoint gives other logits")


def make(case: Case, seed: int) -> dict:
    folder = TARGET / case.name
    shutil.rmtree(folder, ignore_errors=True)
    model = random_model(case, seed)
    model.to(torch.bfloat16).save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    new = json.loads((folder / "config.json").read_text())
    generator = torch.Generator().manual_seed(2000 + seed)
    reference = {}
    with torch.no_grad():
        for i, length in enumerate(LENGTHS):
            tokens = random_tokens(length, BASE["vocab_size"] - 8, generator)
            logits = logits_of(random_model(case, seed), tokens)  # a rope table may remember lengths
            reference[f"tokens_{i}"], reference[f"logits_{i}"] = tokens.to(torch.int32), logits
        for form in [new] + ([old_form(new)] if case.old_form else []):
            check_reloads(case, folder, form, tokens, logits)
    write_json(folder / "config.json", old_form(new) if case.old_form else new)
    loss = add_gradients(case, seed, folder, reference)
    losses = five_losses(case, seed, folder, reference)
    save_file(reference, folder / "reference.safetensors")
    facts = {"name": case.name, "seed": seed, "loss": loss, "losses": losses, "learning_rate": RATE, "max_abs_logit": logits.abs().max().item()}
    write_json(folder / "reference.json", facts)
    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    print(f"{case.name:20} {size / 1024:6.0f} KiB  max |logit| {facts['max_abs_logit']:.2f}  losses {losses[0]:.4f} … {losses[-1]:.4f}", flush=True)
    return facts


def main() -> None:
    single_thread()
    wanted = set(sys.argv[1:]) or {case.name for case in CASES}
    for seed, case in enumerate(CASES, start=1):
        if case.name in wanted:
            make(case, seed)


if __name__ == "__main__":
    main()
