"""Makes tests/fixtures/parity/models: tiny random Llama checkpoints and the FP32 logits of transformers.

    .venv-peers/bin/python tests/interop/make_parity_fixtures.py

Deterministic: a second run writes the same bytes.
"""

import dataclasses
import json
import pathlib
import shutil
import tempfile

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from fixture_models import FIXTURES, logits_of, random_llama, random_tokens, single_thread, write_json

TARGET = FIXTURES / "parity" / "models"
GREEDY_TOKENS = 12


class NearTie(Exception):
    """Two next tokens so close that rounding could choose between them: no fixture, take the next seed."""


@dataclasses.dataclass
class Case:
    name: str
    what: str
    dtype: torch.dtype = torch.bfloat16
    old_form: bool = False  # config.json in the keys of transformers 4; config.other.json has the other form
    shard_bytes: str | None = None
    lengths: tuple = (11, 24)
    greedy: bool = True  # a dynamic table depends on the length, so that cached and uncached decoding differ
    config: dict = dataclasses.field(default_factory=dict)
    rope: dict = dataclasses.field(default_factory=dict)


BASE = dict(
    vocab_size=256, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=16, max_position_embeddings=256, rms_norm_eps=1e-5, tie_word_embeddings=False,
    bos_token_id=1, eos_token_id=2,
)
TIED = dict(tie_word_embeddings=True)
LONG = dict(lengths=(11, 29, 48))  # the last is longer than the original 32 positions

CASES = [
    Case("plain", "grouped-query attention 4/2, lm_head of its own"),
    Case("tied", "lm_head = embedding, F32 file", dtype=torch.float32, old_form=True,
         config=dict(TIED, vocab_size=120, intermediate_size=64)),
    Case("attention_bias", "bias on q, k, v and o", config=dict(TIED, attention_bias=True)),
    Case("mlp_bias", "bias on gate, up and down, F16 file", dtype=torch.float16, config=dict(TIED, mlp_bias=True)),
    Case("gqa_4_1", "one KV head", config=dict(TIED, num_key_value_heads=1)),
    Case("head_dim_32", "head_dim 32 where hidden / heads is 16", config=dict(TIED, head_dim=32, intermediate_size=64)),
    Case("mha_odd", "as many KV heads as heads, sizes that no block of 64 divides, large eps; the old config leaves out "
         "num_key_value_heads, head_dim, rope_scaling and attention_bias", old_form=True,
         config=dict(vocab_size=131, hidden_size=48, intermediate_size=80, num_attention_heads=3, num_key_value_heads=3,
                     rms_norm_eps=1e-2)),
    Case("sharded", "three files and an index, theta 500000", shard_bytes="80KB", config=dict(rope_theta=500000.0)),
    Case("rope_linear", "positions divided by 4", old_form=True, **LONG, config=dict(TIED, max_position_embeddings=128),
         rope=dict(rope_type="linear", factor=4.0)),
    Case("rope_dynamic", "base grows with the length beyond 32 positions", **LONG, greedy=False,
         config=dict(TIED, max_position_embeddings=32), rope=dict(rope_type="dynamic", factor=2.0)),
    Case("rope_dynamic_old", "the same with old keys, another factor and theta", old_form=True, **LONG, greedy=False,
         config=dict(TIED, max_position_embeddings=32, rope_theta=1000.0), rope=dict(rope_type="dynamic", factor=4.0)),
    Case("rope_llama3", "factor 8 by wave length", old_form=True, **LONG,
         config=dict(TIED, head_dim=32, intermediate_size=64, rope_theta=500.0),
         rope=dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                   original_max_position_embeddings=32)),
    Case("rope_yarn", "attention factor by default", **LONG,
         config=dict(TIED, head_dim=32, intermediate_size=64, max_position_embeddings=128),
         rope=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=32)),
    Case("rope_yarn_explicit", "attention_factor, beta_fast and beta_slow given", old_form=True, **LONG,
         config=dict(TIED, max_position_embeddings=256),
         rope=dict(rope_type="yarn", factor=8.0, original_max_position_embeddings=32, attention_factor=1.3,
                   beta_fast=4.0, beta_slow=0.5)),
    Case("rope_yarn_mscale", "attention factor from mscale and mscale_all_dim, ramp not truncated", **LONG,
         config=dict(TIED, max_position_embeddings=128),
         rope=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=32, mscale=1.0, mscale_all_dim=0.5,
                   truncate=False)),
    Case("blocks_of_64", "every row of a linear is whole NF4 blocks",
         config=dict(TIED, vocab_size=160, intermediate_size=128)),
]


def old_config(case: Case, new: dict) -> dict:
    """The same config in the keys of transformers 4, optional keys left out where they equal the default."""
    rope = dict(new["rope_parameters"])
    old = {k: v for k, v in new.items() if k not in ("rope_parameters", "dtype", "transformers_version")}
    old["rope_theta"] = rope.pop("rope_theta")
    kind = rope.pop("rope_type")
    if kind != "default":
        # "type" is the oldest key; llama3 and yarn came with "rope_type".
        old["rope_scaling"] = {("rope_type" if kind in ("llama3", "yarn") else "type"): kind, **rope}
        if kind == "dynamic":
            old["rope_scaling"].pop("original_max_position_embeddings", None)
    old["torch_dtype"] = str(case.dtype).removeprefix("torch.")
    old["transformers_version"] = "4.40.0"
    if case.name == "mha_odd":
        for key in ("num_key_value_heads", "head_dim", "attention_bias", "mlp_bias"):
            old.pop(key)
    return old


def check_loads_alike(folder: pathlib.Path, config: dict, model: LlamaForCausalLM, tokens: list) -> None:
    """Both config forms must give the reference logits when transformers itself loads the folder."""
    with tempfile.TemporaryDirectory() as scratch:
        copy = pathlib.Path(scratch) / "model"
        shutil.copytree(folder, copy)
        write_json(copy / "config.json", config)
        for ids, expected in tokens:
            loaded = LlamaForCausalLM.from_pretrained(copy, dtype=torch.float32, attn_implementation="eager")
            if not torch.equal(logits_of(loaded, ids), expected):
                raise SystemExit(f"{folder.name}: a reloaded checkpoint gives other logits")


def check_rope_matters(scaled: torch.Tensor, plain: torch.Tensor, case: Case) -> None:
    """A fixture that an ignored rope scaling would pass proves nothing."""
    change = ((scaled - plain).abs().amax(-1) / scaled.abs().amax(-1)).max().item()
    if change < 0.02:
        raise SystemExit(f"{case.name}: rope scaling changes the logits by {change:.1e} only")


def make(case: Case, seed: int) -> dict:
    settings = {**BASE, **case.config}
    rope_theta = settings.pop("rope_theta", 10000.0)
    rope = {"rope_theta": rope_theta, "rope_type": "default", **case.rope}

    def fresh(rope=rope) -> LlamaForCausalLM:  # a dynamic rope table remembers the longest sequence it saw
        return random_llama(LlamaConfig(**settings, rope_parameters=dict(rope)), seed, case.dtype)

    folder = TARGET / case.name
    model = fresh()
    extra = {"max_shard_size": case.shard_bytes} if case.shard_bytes else {}
    model.to(case.dtype).save_pretrained(folder, **extra)
    (folder / "generation_config.json").unlink(missing_ok=True)
    new = json.loads((folder / "config.json").read_text())

    generator = torch.Generator().manual_seed(1000 + seed)
    reference, pairs = {}, []
    for i, length in enumerate(case.lengths):
        ids = random_tokens(length, settings["vocab_size"], generator)
        logits = logits_of(fresh(), ids)
        reference[f"tokens_{i}"], reference[f"logits_{i}"] = ids.to(torch.int32), logits
        pairs.append((ids, logits))
    if case.rope:
        check_rope_matters(logits, logits_of(fresh({"rope_theta": rope_theta, "rope_type": "default"}), ids), case)
    if case.greedy:
        reference["greedy"] = greedy(fresh(), pairs[0][0])
    save_file(reference, folder / "reference.safetensors")

    old = old_config(case, new)
    for form in (new, old):
        check_loads_alike(folder, form, model, pairs)
    write_json(folder / "config.json", old if case.old_form else new)
    write_json(folder / "config.other.json", new if case.old_form else old)
    files = sorted(p.name for p in folder.glob("model*.safetensors"))
    return {"name": case.name, "what": case.what, "dtype": str(case.dtype).removeprefix("torch."), "seed": seed,
            "config_form": "old" if case.old_form else "new", "sequences": len(pairs), "files": files,
            "greedy": case.greedy, "max_abs_logit": max(l.abs().max().item() for _, l in pairs)}


def greedy(model: LlamaForCausalLM, prompt: torch.Tensor) -> torch.Tensor:
    """Continuation of sequence 0."""
    ids = prompt.clone()
    for _ in range(GREEDY_TOKENS):
        best = logits_of(model, ids)[-1].topk(2)
        if best.values[0] - best.values[1] < 1e-3:
            raise NearTie
        ids = torch.cat([ids, best.indices[:1]])
    return ids[len(prompt):].to(torch.int32)


def make_with_first_good_seed(case: Case, seed: int) -> dict:
    while True:
        try:
            return make(case, seed)
        except NearTie:
            shutil.rmtree(TARGET / case.name)
            seed += 100


def main() -> None:
    single_thread()
    shutil.rmtree(TARGET, ignore_errors=True)
    TARGET.mkdir(parents=True)
    cases = [make_with_first_good_seed(case, seed) for seed, case in enumerate(CASES, start=1)]
    write_json(TARGET / "cases.json", cases)
    for case in cases:
        size = sum(p.stat().st_size for p in (TARGET / case["name"]).iterdir())
        print(f"{case['name']:20} {size / 1024:6.0f} KiB  max |logit| {case['max_abs_logit']:.2f}")


if __name__ == "__main__":
    main()
