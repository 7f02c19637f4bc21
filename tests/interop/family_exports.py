"""What qlora writes of every family, read back by transformers in FP32: adapters, merged models, AWQ, GPTQ and GGUF.

    .venv-peers/bin/python tests/interop/family_exports.py [CASE...]      default: every dense case of make_family_fixtures.py

For each family a random checkpoint that is wide enough for every format. The measure is the mean NLL of random tokens:
- `perplexity --adapter` against transformers + peft;
- `merge` against peft's merge_and_unload, both loaded by transformers;
- `export` as AWQ and GPTQ: the numpy decoder's weights in transformers against what qlora measures of its own folder;
- GGUF in F16, where llama.cpp has the family: transformers' own reader against the source.
"""

import pathlib
import sys

import quiet  # noqa: F401  (before the peers)
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

import checks
import export_decoder
import make_family_fixtures as families
import tiny_llama

SIZES = dict(families.BASE, vocab_size=512, hidden_size=64, intermediate_size=128, num_attention_heads=4, num_key_value_heads=4)
BLOCKS, LENGTH = 6, 48
READ_BACK, ADAPTER, FP16, BF16 = 2e-4, 2e-5, 2e-4, 2e-3  # of the NLL: rounding of the sums, of FP16 and of BF16 weights
NO_GGUF_READER = {"smollm3", "gemma3_multimodal"}  # unknown to transformers' reader; of a multimodal file the text part is written
GGUF_REFUSED = {"qwen2_window": "no block has a window", "smollm3_window": "no block has a window"}


def wide(case: families.Case) -> families.Case:
    """The same family with heads of 16 numbers, and what llama.cpp takes for granted."""
    settings = dict(case.settings)
    for key in ("head_dim", "num_key_value_heads"):
        settings.pop(key, None)
    if case.name.startswith("gemma"):
        settings.update(head_dim=16, query_pre_attn_scalar=16)
    if case.name == "gemma3":
        settings.update(num_hidden_layers=6, sliding_window_pattern=6)
    if case.name.startswith("qwen3"):
        settings.update(head_dim=128)  # their GGUF reader knows no other width
    if case.name == "smollm3":
        settings.update(num_hidden_layers=4, no_rope_layer_interval=4)
    if case.name == "phi3_longrope":
        settings["rope_parameters"] = dict(settings["rope_parameters"], short_factor=[1.0, 1.1, 1.3, 1.4, 1.5, 1.6], long_factor=[1.5, 2.5, 3.0, 4.0, 5.0, 7.0])
    return families.dataclasses.replace(case, settings=settings)


@torch.no_grad()
def nlls_of(model, blocks) -> torch.Tensor:
    """Of every prediction, FP64."""
    rows = []
    for block in blocks.long():
        logits = model(input_ids=block[None], use_cache=False).logits[0, :-1].double()
        rows.append(torch.nn.functional.cross_entropy(logits, block[1:], reduction="none"))
    return torch.cat(rows)


def nll_of(model, blocks) -> float:
    return nlls_of(model, blocks).mean().item()


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def qlora_nll(model, tokens, *more) -> float:
    return checks.perplexity("--model-path", model, "--tokens", f"{tokens}:blocks", "--compute-dtype", "fp32", "--threads", "1",
                             "--set", "lora.adapter_dtype=fp32", *more)["nll"]  # fmt: skip


def export(model, out, tokens, *more):
    return checks.qlora("export", "--model-path", model, "--output-dir", out, "--tokens", f"{tokens}:blocks", "--eval-tokens", f"{tokens}:blocks",
                        "--compute-dtype", "fp32", "--threads", "1", *more)  # fmt: skip


def check_case(check: checks.Checks, case: families.Case, seed: int, scratch: pathlib.Path, tokenizer) -> None:
    folder = scratch / case.name
    model = families.random_model(case, seed, SIZES)
    model.to(torch.bfloat16).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    blocks = torch.randint(3, 480, (BLOCKS, LENGTH), generator=torch.Generator().manual_seed(seed), dtype=torch.int32)
    tokens = folder / "tokens.safetensors"
    save_file({"blocks": blocks}, tokens)
    base = nlls_of(families.random_model(case, seed, SIZES), blocks)
    source = base.mean().item()
    check.expect_close(f"{case.name}: NLL of the source", qlora_nll(folder / "model", tokens), source, ADAPTER)

    adapted = families.wrap(case, families.random_model(case, seed, SIZES), seed, 0.6).eval()
    families.save_adapter(adapted, folder / "adapter")
    nlls = nlls_of(adapted, blocks)
    expected, change = nlls.mean().item(), (nlls - base).abs().mean().item()
    check.expect(f"{case.name}: the adapter changes something", change > 10 * BF16, f"{change:.3f} a prediction")
    check.expect_close(f"{case.name}: NLL with peft's adapter", qlora_nll(folder / "model", tokens, "--adapter", folder / "adapter"), expected, ADAPTER)
    checks.must(checks.qlora("merge", "--model-path", folder / "model", "--adapter", folder / "adapter", "--output-dir", folder / "merged"))
    check.expect_close(f"{case.name}: NLL of the merged model in transformers", nll_of(load(folder / "merged"), blocks), expected, BF16)

    for kind, options in (("awq", ()), ("gptq", ("--symmetric", "false"))):
        out = folder / kind
        checks.must(export(folder / "model", out, tokens, "--quantization-type", kind, "--group-size", "32", *options))
        decoded = export_decoder.reference_model(export_decoder.decode(out))
        check.expect_close(f"{case.name}: NLL of {kind} decoded into transformers", nll_of(decoded, blocks), qlora_nll(out, tokens), READ_BACK)
    check_gguf(check, case, folder, tokens, blocks, source)


def check_gguf(check, case, folder, tokens, blocks, source) -> None:
    result = export(folder / "model", folder / "gguf", tokens, "--quantization-type", "none", "--format", "gguf")
    if case.name in GGUF_REFUSED:
        line = result.stderr.strip()
        check.expect(f"{case.name}: GGUF is refused by name", result.returncode == 2 and GGUF_REFUSED[case.name] in line, line[-160:])
        return
    checks.must(result)
    file = next((folder / "gguf").glob("*.gguf"))
    ours = qlora_nll(file, tokens)
    if case.name != "mistral":  # which is read back without its window
        check.expect_close(f"{case.name}: NLL of the GGUF file", ours, source, FP16)
    if case.name in NO_GGUF_READER:
        return
    theirs = AutoModelForCausalLM.from_pretrained(folder / "gguf", gguf_file=file.name, dtype=torch.float32, attn_implementation="eager").eval()
    # Their reader does not take up every number of a family (caps, factors of longrope): its weights are put into the source's model.
    fresh = families.random_model(case, 1, SIZES)
    fresh.load_state_dict(theirs.state_dict(), strict=True)
    check.expect_close(f"{case.name}: NLL of what transformers reads of the GGUF file", nll_of(fresh, blocks), source, FP16)


def main() -> None:
    torch.set_num_threads(1)
    check = checks.Checks("family_exports")
    scratch = checks.scratch_folder()
    tokenizer = tiny_llama.make_tokenizer(tiny_llama.texts(200, 7))
    wanted = set(sys.argv[1:])
    for seed, case in enumerate(families.CASES, start=1):
        if case.name in ("mixtral", "qwen3_moe") or (wanted and case.name not in wanted):
            continue
        check_case(check, wide(case), seed, scratch, tokenizer)
    check.finish()


if __name__ == "__main__":
    main()
