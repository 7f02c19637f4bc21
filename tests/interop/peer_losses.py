"""Training SmolLM2 gives the losses of the Python stack (bitsandbytes, peft, transformers) on the same work.

    .venv-peers/bin/python tests/interop/peer_losses.py

The numbers below are those of bench/peers/peer_train.py (torch 2.14.1, transformers 5.23.0, peft 0.21.2, bitsandbytes
0.50.2; one thread). Tokens and first adapter come from $QLORA_REFERENCE_DIR (data/tokens.safetensors, init_adapter/)
where it is set, else from .cache/peers, made by make_peer_tokens.py; either is checked by SHA-256.
"""

import os
import pathlib
import shutil
import sys

import checks
import make_peer_tokens

# fmt: off
NF4_FP32 = [3.632296, 3.551106, 3.589311, 3.300754, 3.206601, 3.281196, 3.209567, 2.727486, 2.938333, 3.031004,
            2.785401, 2.712984, 2.902111, 2.838680, 2.678936, 2.317797, 2.672153, 2.548637, 2.672070, 2.592723,
            2.651029, 2.492733, 2.537673, 2.368456, 2.698344, 2.499390, 2.317276, 2.403454, 2.356216, 2.498272]
NF4_FP32_ADAMW8 = [3.632296, 3.551106, 3.589315, 3.300779, 3.206660, 3.281280, 3.209707, 2.727631, 2.938505, 3.031223]
NF4_BF16 = [3.633407, 3.549976, 3.591398, 3.303079, 3.207264, 3.283059, 3.207709, 2.726591, 2.938954, 3.031687]
UNQUANTIZED_FP32 = [3.270491, 3.255864, 3.342294, 2.991400, 2.912091, 3.061102, 2.945314, 2.508705, 2.709868, 2.841602]
# fmt: on
PERPLEXITY_BEFORE, PERPLEXITY_AFTER, HELDOUT_BLOCKS = 33.791, 9.710, 16
GRADIENT_NORM_OF_FIRST_STEP = 1.04054


def work_folder(scratch: pathlib.Path) -> pathlib.Path:
    """A folder with tokens.safetensors and init_adapter/, whose bytes are the recorded ones."""
    reference = os.environ.get("QLORA_REFERENCE_DIR")
    if reference:
        work = scratch / "work"
        work.mkdir()
        shutil.copy(pathlib.Path(reference) / "data" / "tokens.safetensors", work)
        shutil.copytree(pathlib.Path(reference) / "init_adapter", work / "init_adapter")
    else:
        work = checks.ROOT / ".cache" / "peers"
    if make_peer_tokens.digests(work) != make_peer_tokens.SHA256:
        sys.exit(f"[peer_losses] {work} does not hold the recorded tokens and adapter: run tests/interop/make_peer_tokens.py")
    return work


def config(work: pathlib.Path, steps: int, compute_dtype: str = "fp32", load_in_4bit: bool = True, optim: str = "adamw_torch") -> dict:
    gguf = sorted((checks.ROOT / "models" / "smollm2-135m").glob("*.gguf"))[0]
    return {
        "model_name_or_path": str(gguf), "device": "cpu", "compute_dtype": compute_dtype, "quantization": {"load_in_4bit": load_in_4bit},
        "lora": {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "adapter_dtype": "fp32", "init_adapter": str(work / "init_adapter")},
        "data": {"tokens": {"file": str(work / "tokens.safetensors"), "train": "train"}, "loss_on": "all"},
        "max_steps": steps, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "shuffle": False,
        "optim": optim, "learning_rate": 2e-4, "lr_scheduler_type": "constant", "weight_decay": 0.0, "max_grad_norm": 0.0,
        "save_strategy": "no", "eval_strategy": "no", "logging_steps": 1, "report_to": ["none"],
    }


def main() -> None:
    check = checks.Checks("peer_losses")
    scratch = checks.scratch_folder()
    work = work_folder(scratch)
    model = ["--model-path", config(work, 1)["model_name_or_path"], "--compute-dtype", "fp32", "--set", "lora.adapter_dtype=fp32"]
    heldout = ["--tokens", f"{work / 'tokens.safetensors'}:heldout", "--blocks", HELDOUT_BLOCKS]

    def first_ten(name: str, steps: list, expected: list, tolerance: float) -> None:
        check.expect(f"{name}: a record for every step", len(steps) >= 10, f"{len(steps)}")
        for i, (step, loss) in enumerate(zip(steps, expected[:10])):
            check.expect_close(f"{name}: loss of step {i}", step["loss"], loss, tolerance)

    before = perplexity_of(check, "before training", [*model, "--load-in-4bit", *heldout], PERPLEXITY_BEFORE, 0.01)
    main_run = checks.train(config(work, 30), scratch, "nf4_fp32")
    first_ten("NF4, FP32 compute", main_run, NF4_FP32, 2e-3)
    check.expect("NF4, FP32 compute: 30 steps", len(main_run) == 30, f"{len(main_run)}")
    check.expect_close("NF4, FP32 compute: loss of step 29", main_run[-1]["loss"], NF4_FP32[29], 0.01, relative=True)
    worst = max(abs(s["loss"] - e) / e for s, e in zip(main_run, NF4_FP32))
    check.expect("NF4, FP32 compute: all 30 losses within 1%", worst <= 0.01, f"worst {worst:.1e}")
    check.expect_close("NF4, FP32 compute: gradient norm of step 0", main_run[0]["grad_norm"], GRADIENT_NORM_OF_FIRST_STEP, 0.005)
    after = perplexity_of(check, "after 30 steps", [*model, "--adapter", scratch / "nf4_fp32", "--load-in-4bit", *heldout], PERPLEXITY_AFTER, 0.02)
    check.expect("training halves the held-out perplexity at least", after <= before / 2, f"{before:.3f} -> {after:.3f}")

    first_ten("NF4, BF16 compute", checks.train(config(work, 10, compute_dtype="bf16"), scratch, "nf4_bf16"), NF4_BF16, 1e-2)
    first_ten("NF4, 8-bit AdamW", checks.train(config(work, 10, optim="adamw_8bit"), scratch, "nf4_adamw8"), NF4_FP32_ADAMW8, 2e-3)
    first_ten("no quantization", checks.train(config(work, 10, load_in_4bit=False), scratch, "unquantized"), UNQUANTIZED_FP32, 2e-3)
    check.finish()


def perplexity_of(check: checks.Checks, what: str, arguments: list, expected: float, tolerance: float) -> float:
    result = checks.perplexity(*arguments)
    check.expect(f"perplexity {what}: predictions", result["tokens"] == HELDOUT_BLOCKS * 127, f"{result['tokens']}")
    check.expect_close(f"perplexity {what}", result["perplexity"], expected, tolerance, relative=True)
    return result["perplexity"]


if __name__ == "__main__":
    main()
