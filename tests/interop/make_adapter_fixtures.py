"""Makes tests/fixtures/parity/{adapters,refused,gradients,training,nf4} with peft and bitsandbytes.

    .venv-peers/bin/python tests/interop/make_adapter_fixtures.py      (after make_parity_fixtures.py)
"""

import json
import pathlib
import shutil

import quiet  # noqa: F401  (before the peers)
import bitsandbytes.functional as bnb
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    get_constant_schedule,
    get_cosine_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)

from fixture_models import FIXTURES, LINEARS, logits_of, random_tokens, single_thread, write_json

PARITY = FIXTURES / "parity"
IGNORE = -100


def load_base(name: str):
    return AutoModelForCausalLM.from_pretrained(PARITY / "models" / name, dtype=torch.float32, attn_implementation="eager")


def wrap(base, seed: int, b_std: float, **settings):
    """peft's own model; B gets random values, else the adapter has no effect and A no gradient."""
    torch.manual_seed(seed)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": LINEARS, **settings}
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", lora_dropout=0.0, **settings))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(b_std * torch.randn(parameter.shape, generator=generator))
    return model


def save_adapter(model, folder: pathlib.Path, **settings) -> None:
    model.peft_config["default"].base_model_name_or_path = ""
    model.save_pretrained(folder, **settings)
    (folder / "README.md").unlink(missing_ok=True)
    config = json.loads((folder / "adapter_config.json").read_text())
    for patterns in ("rank_pattern", "alpha_pattern"):
        config[patterns] = getattr(model.peft_config["default"], patterns)
    if isinstance(config["target_modules"], list):
        config["target_modules"].sort()  # peft keeps a set, whose order differs from run to run
    write_json(folder / "adapter_config.json", config)


def file_name_of(parameter_name: str) -> str:
    """The name of a parameter in adapter_model.safetensors."""
    return parameter_name.replace(".default", "")


ADAPTERS = {
    "all_linear": dict(target_modules="all-linear"),
    "q_v_only": dict(target_modules=["q_proj", "v_proj"], r=3, lora_alpha=5),
    "regex": dict(target_modules=r".*\.1\.(self_attn|mlp)\.(o|up)_proj"),
    # Bare names match the last components of a module's name, "^" anchors at the front, the first match wins.
    "patterns": dict(
        rank_pattern={"1.mlp.down_proj": 2, "^model.layers.0.self_attn.v_proj": 1, "down_proj": 6,
                      r"layers\.[01]\.mlp\.gate_proj": 5},
        alpha_pattern={"0.mlp.down_proj": 3.5, "down_proj": 12, "layers.0.self_attn.k_proj": 3, "o_proj": 7.5},
    ),
    # peft sorts the patterns when it writes, and so cannot read this one back; the order is put right in the file.
    "patterns_in_file_order": dict(
        rank_pattern={"layers.1.mlp.down_proj": 2, "down_proj": 6},
        alpha_pattern={"layers.1.mlp.down_proj": 3, "down_proj": 12},
    ),
    "rslora": dict(use_rslora=True, r=4, lora_alpha=8),
    "rslora_patterns": dict(use_rslora=True, rank_pattern={"up_proj": 9}, alpha_pattern={"up_proj": 2, "q_proj": 32}),
}


def make_adapters() -> None:
    for seed, (name, settings) in enumerate(ADAPTERS.items(), start=50):
        model = wrap(load_base("plain"), seed, 0.2, **settings).eval()
        folder = PARITY / "adapters" / name
        save_adapter(model, folder)
        tokens = random_tokens(17, 256, torch.Generator().manual_seed(seed))
        scales = {
            n.removeprefix("base_model.model."): m.scaling["default"]
            for n, m in model.named_modules()
            if isinstance(m, LoraLayer)
        }
        logits = logits_of(model, tokens)
        reloaded = logits_of(PeftModel.from_pretrained(load_base("plain"), folder), tokens)
        if not torch.equal(reloaded, logits):
            raise SystemExit(f"{name}: peft reads its own adapter differently")
        save_file({"tokens": tokens.to(torch.int32), "logits": logits}, folder / "reference.safetensors")
        trainable, total = model.get_nb_trainable_parameters()
        write_json(folder / "reference.json", {"scales": scales, "trainable_parameters": trainable, "all_parameters": total})


REFUSED = {
    "dora": dict(use_dora=True),
    "modules_to_save": dict(modules_to_save=["lm_head"]),
    "bias_lora_only": dict(bias="lora_only"),
    "lora_bias": dict(lora_bias=True),
    "trainable_tokens": dict(trainable_token_indices=[3, 4]),
}


def make_refused() -> None:
    """Adapters that peft writes and that no program may load as if they were plain LoRA."""
    small = dict(target_modules=["q_proj"], r=2)
    for name, settings in REFUSED.items():
        base = load_base("attention_bias" if name == "bias_lora_only" else "plain")
        save_adapter(wrap(base, 7, 0.2, **{**small, **settings}), PARITY / "refused" / name)
    resized = load_base("plain")
    resized.resize_token_embeddings(260)
    save_adapter(wrap(resized, 7, 0.2, **small), PARITY / "refused" / "resized_vocabulary", save_embedding_layers=True)


def masked_sequences(lengths, vocab: int, seed: int):
    """Tokens and shifted targets; about a third of the targets and every last one carry no loss."""
    generator = torch.Generator().manual_seed(seed)
    for length in lengths:
        tokens = random_tokens(length, vocab, generator)
        targets = torch.cat([tokens[1:], torch.tensor([IGNORE])])
        targets[torch.rand(length, generator=generator) < 0.3] = IGNORE
        yield tokens, targets


def summed_loss(model, tokens, targets):
    logits = model(input_ids=tokens[None], use_cache=False).logits[0]
    return torch.nn.functional.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="sum")


def make_gradients() -> None:
    for seed, (name, base, settings) in enumerate(
        [("plain", "plain", {}), ("tied_llama3_rslora", "rope_llama3", dict(use_rslora=True, rank_pattern={"k_proj": 7}))], start=60
    ):
        model = wrap(load_base(base), seed, 0.3, **settings).train()
        folder = PARITY / "gradients" / name
        save_adapter(model, folder)
        sequences = list(masked_sequences((13, 22), 256, seed))
        count = sum(int((targets != IGNORE).sum()) for _, targets in sequences)
        loss = sum(summed_loss(model, *s) for s in sequences) / count
        loss.backward()
        tensors = {file_name_of(n): p.grad for n, p in model.named_parameters() if p.requires_grad}
        for i, (tokens, targets) in enumerate(sequences):
            tensors[f"tokens_{i}"], tensors[f"targets_{i}"] = tokens.to(torch.int32), targets.to(torch.int32)
        save_file(tensors, folder / "reference.safetensors")
        norm = sum(p.grad.double().square().sum() for p in model.parameters() if p.grad is not None) ** 0.5
        write_json(folder / "reference.json", {"base": base, "loss": loss.item(), "target_tokens": count, "gradient_norm": norm.item()})


STEPS, MICRO_BATCHES, SEQUENCES = 10, 2, 2
RUNS = {
    "constant": dict(base="plain", lr=1e-3, weight_decay=0.0, clip=None, schedule="constant", warmup_steps=0),
    "linear": dict(base="plain", lr=5e-3, weight_decay=0.1, clip=0.5, schedule="linear", warmup_steps=3),
    "cosine_tied": dict(base="rope_llama3", lr=5e-3, weight_decay=0.0, clip=1.0, schedule="cosine", warmup_steps=2),
    "nf4_constant": dict(base="blocks_of_64", lr=1e-3, weight_decay=0.0, clip=None, schedule="constant", warmup_steps=0),
}


def schedule_of(run, optimizer):
    if run["schedule"] == "constant":
        return get_constant_schedule(optimizer)
    make = {"linear": get_linear_schedule_with_warmup, "cosine": get_cosine_schedule_with_warmup}[run["schedule"]]
    return make(optimizer, run["warmup_steps"], STEPS)


def make_training() -> None:
    """Ten optimizer steps of 2 micro-batches of 2 sequences; every loss is the mean over the step's target tokens."""
    for seed, (name, run) in enumerate(RUNS.items(), start=70):
        base = load_base(run["base"])
        if name.startswith("nf4"):
            replace_by_nf4(base)
        model = wrap(base, seed, 0.0).train()
        folder = PARITY / "training" / name
        save_adapter(model, folder / "init_adapter")
        parameters = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=run["lr"], betas=(0.9, 0.999), eps=1e-8, weight_decay=run["weight_decay"])
        schedule = schedule_of(run, optimizer)
        generator = torch.Generator().manual_seed(seed)
        lengths = torch.randint(5, 21, (STEPS * MICRO_BATCHES * SEQUENCES,), generator=generator).tolist()
        vocab = base.config.vocab_size
        sequences = list(masked_sequences(lengths, vocab, seed))
        losses, norms, rates = [], [], []
        for step in range(STEPS):
            part = sequences[step * MICRO_BATCHES * SEQUENCES :][: MICRO_BATCHES * SEQUENCES]
            count = sum(int((targets != IGNORE).sum()) for _, targets in part)
            loss = sum(summed_loss(model, *s) for s in part) / count
            loss.backward()
            limit = float("inf") if run["clip"] is None else run["clip"]
            norms.append(torch.nn.utils.clip_grad_norm_(parameters, limit).item())
            rates.append(schedule.get_last_lr()[0])
            losses.append(loss.item())
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        save_adapter(model, folder / "final_adapter")
        starts = torch.tensor([0, *lengths]).cumsum(0)
        flat = {"tokens": torch.cat([t for t, _ in sequences]), "targets": torch.cat([t for _, t in sequences]), "sequence_starts": starts}
        save_file({k: v.to(torch.int32) for k, v in flat.items()}, folder / "data.safetensors")
        write_json(folder / "reference.json", {**run, "steps": STEPS, "micro_batches": MICRO_BATCHES, "sequences_per_micro_batch": SEQUENCES,
                   "adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8, "losses": losses, "gradient_norms": norms, "learning_rates": rates})


def quantize_nf4(weight: torch.Tensor):
    """bitsandbytes' own codes and scales; the weights by its formula, because its AVX-512 dequantizer errs for some row lengths."""
    packed, state = bnb.quantize_4bit(weight.contiguous(), blocksize=64, compress_statistics=True, quant_type="nf4")
    scales = state.state2.code[state.absmax.long()] * state.state2.absmax.repeat_interleave(256)[: state.absmax.numel()] + state.offset
    codes = torch.stack([packed.flatten() >> 4, packed.flatten() & 15], 1).flatten()[: weight.numel()]
    restored = (state.code[codes.long()] * scales.repeat_interleave(64)[: weight.numel()]).view_as(weight)
    parts = {"packed": packed.flatten(), "absmax": state.absmax, "nested_absmax": state.state2.absmax, "offset": state.offset.reshape(1)}
    return restored, parts


@torch.no_grad()
def replace_by_nf4(model) -> dict:
    tensors = {}
    for name, module in model.named_modules():
        if name.rsplit(".", 1)[-1] in LINEARS:
            restored, parts = quantize_nf4(module.weight)
            module.weight.copy_(restored)
            tensors.update({f"{name}.{k}": v.clone() for k, v in parts.items()})
    return tensors


def make_nf4() -> None:
    """Logits over NF4 weights with double quantization: whole blocks, and rows that blocks of 64 cross."""
    for base in ("blocks_of_64", "mha_odd"):
        model = load_base(base)
        tensors = replace_by_nf4(model)
        tokens = random_tokens(19, model.config.vocab_size, torch.Generator().manual_seed(80))
        logits = logits_of(model, tokens)
        if base == "blocks_of_64":
            check_against_stack(base, tokens, logits)
        plain = logits_of(load_base(base), tokens)
        if (plain - logits).abs().max() < 0.02 * plain.abs().max():
            raise SystemExit(f"{base}: quantization hardly changes the logits")
        folder = PARITY / "nf4"
        folder.mkdir(exist_ok=True)
        save_file({**tensors, "tokens": tokens.to(torch.int32), "logits": logits}, folder / f"{base}.safetensors")


def check_against_stack(base: str, tokens, expected) -> None:
    """transformers with load_in_4bit must agree, so that the formula above is what users of bitsandbytes get."""
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.float32)
    model = AutoModelForCausalLM.from_pretrained(
        PARITY / "models" / base, dtype=torch.float32, quantization_config=config, device_map="cpu", attn_implementation="eager"
    ).train()
    error = (logits_of(model, tokens) - expected).abs().max() / expected.abs().max()
    if error > 1e-5:
        raise SystemExit(f"{base}: load_in_4bit gives other logits, error {error:.1e}")


def main() -> None:
    single_thread()
    for folder in ("adapters", "refused", "gradients", "training", "nf4"):
        shutil.rmtree(PARITY / folder, ignore_errors=True)
    make_adapters()
    make_refused()
    make_gradients()
    make_training()
    make_nf4()


if __name__ == "__main__":
    main()
