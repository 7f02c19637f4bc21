"""This program and the Python stack (bitsandbytes, peft, transformers) training on a GPU, in alternation.

    python3 bench/peers/on_device.py FOLDER [--qlora build/bin/qlora] [--batch 1] [--block 2048] [--steps 12] [--rounds 2]
                                            [--checkpointing] [--only qlora|peer] [--python python3]

FOLDER comes from make_device_inputs.py. Both sides: the same NF4 base with double quantization, BF16, the same initial adapter of
rank 16 on all projections, the same token ids, paged 8-bit AdamW. Prints tokens per second (median over the steps after the
fourth), wall time from process start to the first step, the peak of the device memory that tensors take, the losses' difference.
"""

import argparse
import json
import os
import pathlib
import statistics
import sys

import measure

ROOT = pathlib.Path(__file__).resolve().parents[2]
SKIPPED_STEPS = 4  # allocator, autotuning, graph capture
LOSS_TOLERANCE = 2e-2  # BF16, random weights


def qlora_command(options, folder: pathlib.Path) -> list:
    config = {
        "model_name_or_path": str(options.folder / "model"), "compute_dtype": "bf16", "device": "cuda",
        "quantization": {"load_in_4bit": True, "cache_dir": ""},
        "lora": {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "adapter_dtype": "fp32", "init_adapter": str(options.folder / "init_adapter")},
        "data": {"tokens": {"file": str(options.folder / f"tokens-{options.block}.safetensors"), "train": "train"}, "loss_on": "all"},
        "output_dir": str(folder), "overwrite": True, "max_steps": options.steps, "per_device_train_batch_size": options.batch,
        "gradient_accumulation_steps": 1, "shuffle": False, "packing": False, "gradient_checkpointing": options.checkpointing,
        "optim": "paged_adamw_8bit", "learning_rate": 2e-4, "lr_scheduler_type": "constant", "weight_decay": 0.0, "max_grad_norm": 0.0,
        "save_strategy": "no", "eval_strategy": "no", "logging_steps": 1, "report_to": ["none"],
    }
    path = options.folder / "qlora.json"
    path.write_text(json.dumps(config, indent=1))
    return [options.qlora, "train", path, "--json"]


def peer_command(options) -> list:
    command = [options.python, ROOT / "bench/peers/peer_train.py", "--model", options.folder / "model",
               "--tokens", options.folder / f"tokens-{options.block}.safetensors", "--init-adapter", options.folder / "init_adapter",
               "--dtype", "bf16", "--device", "cuda", "--optimizer", "paged_adamw_8bit", "--threads", str(options.threads),
               "--steps", str(options.steps), "--batch", str(options.batch)]
    return command + (["--checkpointing"] if options.checkpointing else [])


def run(options, side: str) -> dict:
    folder, output = options.folder / "run", options.folder / f"{side}.out"
    tokens = options.batch * options.block
    if side == "qlora":
        done = measure.run(qlora_command(options, folder), folder / "log.jsonl", output, tokens, options.threads)
        records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    else:
        done = measure.run(peer_command(options), output, output, tokens, options.threads)
        records = [r for r in (measure.step_record(line)[1] for line in output.read_bytes().splitlines()) if r]
    steps = [r for r in records if (r.get("kind") or r.get("event")) == "step"]
    return {"tokens_per_second": statistics.median(tokens / r["seconds"] for r in steps[SKIPPED_STEPS:]),
            "start_seconds": done.start_seconds, "peak_device_bytes": records[-1]["peak_device_bytes"],
            "peak_rss_bytes": done.peak_rss_bytes, "losses": done.losses}


def cut_tokens(options) -> None:
    from safetensors.torch import load_file, save_file

    tokens = load_file(options.folder / "tokens.safetensors")["train"].flatten()
    count = options.batch * options.steps
    if tokens.numel() < count * options.block:
        sys.exit(f"[bench] {count} blocks of {options.block} tokens are needed, there are {tokens.numel()} tokens: fewer --steps")
    save_file({"train": tokens[: count * options.block].view(count, options.block).clone()},
              options.folder / f"tokens-{options.block}.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--qlora", type=pathlib.Path, default=ROOT / "build/bin/qlora")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--block", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--only", choices=("qlora", "peer"))
    options = parser.parse_args()
    cut_tokens(options)
    sides = [s for s in ("qlora", "peer") if options.only in (None, s)]
    runs = {side: [] for side in sides}
    for _ in range(options.rounds):
        for side in sides:
            runs[side].append(run(options, side))
            last = runs[side][-1]
            print(f"  {side:5} {last['tokens_per_second']:9.0f} tokens/s, start {last['start_seconds']:6.2f} s, device peak "
                  f"{last['peak_device_bytes'] / 2**20:7.0f} MiB, host peak {last['peak_rss_bytes'] / 2**20:6.0f} MiB, "
                  f"losses {last['losses'][0]:.4f} .. {last['losses'][-1]:.4f}", flush=True)
    if len(sides) < 2:
        return
    for key in ("tokens_per_second", "start_seconds", "peak_device_bytes", "peak_rss_bytes"):
        ours, theirs = (statistics.median(r[key] for r in runs[side]) for side in sides)
        print(f"{key}: {ours / theirs:.3f} of the peer's")
    difference = max(abs(a - b) for a, b in zip(runs["qlora"][0]["losses"], runs["peer"][0]["losses"]))
    print(f"losses differ by at most {difference:.2e} (allowed {LOSS_TOLERANCE:.0e})")
    if not difference <= LOSS_TOLERANCE:
        sys.exit("[bench] the losses differ")


if __name__ == "__main__":
    main()
