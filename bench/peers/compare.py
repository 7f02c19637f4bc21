"""This program and the Python stack on the same work, in alternation. See run.sh."""

import argparse
import dataclasses
import json
import os
import pathlib
import platform
import statistics
import sys
import time

import measure

ROOT = pathlib.Path(__file__).resolve().parents[2]
BATCH, BLOCK_TOKENS = 4, 128
SKIPPED_STEPS = 2  # warm-up: caches, allocators, first touch
LOSS_TOLERANCE = {"bf16": 1e-2, "fp32": 2e-3}
COMPARED_LOSSES = 10
FLOORS = {"tokens_per_cpu_second": 1.3, "peak_rss_bytes": 1 / 3, "start_seconds": 1 / 10}  # ours / peer, BF16, one thread


def model_file() -> pathlib.Path:
    files = sorted((ROOT / "models" / "smollm2-135m").glob("*.gguf"))
    if len(files) != 1:
        sys.exit("[bench] models/smollm2-135m holds no GGUF: run scripts/setup_peers.sh --model")
    return files[0]


def qlora_config(folder: pathlib.Path, dtype: str, threads: int, steps: int, work: pathlib.Path) -> dict:
    return {
        "model_name_or_path": str(model_file()), "compute_dtype": dtype, "device": "cpu", "quantization": {"load_in_4bit": True},
        "lora": {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "adapter_dtype": "fp32", "init_adapter": str(work / "init_adapter")},
        "data": {"tokens": {"file": str(work / "tokens.safetensors"), "train": "train"}, "loss_on": "all"},
        "output_dir": str(folder), "overwrite": True, "threads": threads, "max_steps": steps,
        "per_device_train_batch_size": BATCH, "gradient_accumulation_steps": 1, "shuffle": False, "packing": False,
        "optim": "adamw_torch", "learning_rate": 2e-4, "lr_scheduler_type": "constant", "weight_decay": 0.0, "max_grad_norm": 0.0,
        "save_strategy": "no", "eval_strategy": "no", "logging_steps": 1, "report_to": ["none"],
    }


def run_qlora(options, dtype: str, threads: int) -> measure.Run:
    folder = options.scratch / "qlora-run"
    config = options.scratch / "qlora.json"
    config.write_text(json.dumps(qlora_config(folder, dtype, threads, options.steps, options.work), indent=1))
    command = [options.qlora, "train", config, "--json"]
    return measure.run(command, folder / "log.jsonl", options.scratch / "qlora.out", BATCH * BLOCK_TOKENS, threads)


def run_peer(options, dtype: str, threads: int) -> measure.Run:
    output = options.scratch / "peer.out"
    command = [sys.executable, ROOT / "bench/peers/peer_train.py", "--model", ROOT / "models/smollm2-135m-hf",
               "--tokens", options.work / "tokens.safetensors", "--init-adapter", options.work / "init_adapter",
               "--dtype", dtype, "--threads", str(threads), "--steps", str(options.steps)]
    return measure.run(command, output, output, BATCH * BLOCK_TOKENS, threads)


def rates(run: measure.Run, seconds: list) -> list:
    """Tokens per second of every step after the warm-up; seconds[0] belongs to step 2."""
    return [tokens / s for tokens, s in zip(run.tokens[SKIPPED_STEPS:], seconds[SKIPPED_STEPS - 1 :])]


def summary(run: measure.Run) -> dict:
    return {
        "tokens_per_cpu_second": statistics.median(rates(run, run.step_cpu_seconds)),
        "tokens_per_second": statistics.median(rates(run, run.step_wall_seconds)),
        "start_seconds": run.start_seconds,
        "first_step_seconds": run.first_step_seconds,
        "peak_rss_bytes": run.peak_rss_bytes,
    }


def spread(values: list) -> dict:
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def compare_row(options, dtype: str, threads: int) -> dict:
    runs = {"qlora": [], "peer": []}
    sides = [s for s in ("qlora", "peer") if options.only in (None, s)]
    for round_ in range(options.rounds):
        for side in sides:
            run = (run_qlora if side == "qlora" else run_peer)(options, dtype, threads)
            runs[side].append(run)
            s = summary(run)
            print(f"  {dtype} {threads} thread(s) round {round_ + 1} {side:5}: {s['tokens_per_cpu_second']:6.1f} tokens/CPU-s, "
                  f"start {s['start_seconds']:5.2f} s, peak {s['peak_rss_bytes'] / 2**20:5.0f} MiB, load before {run.load_before:.2f}", flush=True)
    row = {"dtype": dtype, "threads": threads, "runs": {k: [dataclasses.asdict(r) for r in v] for k, v in runs.items()}}
    for side in sides:
        summaries = [summary(r) for r in runs[side]]
        row[side] = {key: spread([s[key] for s in summaries]) for key in summaries[0]}
    if len(sides) == 2:
        # Round i of one side stands beside round i of the other: both saw about the same machine.
        pairs = [(summary(a), summary(b)) for a, b in zip(runs["qlora"], runs["peer"])]
        row["ratio"] = {key: spread([a[key] / b[key] for a, b in pairs]) for key in pairs[0][0]}
        losses = [r.losses[:COMPARED_LOSSES] for r in (runs["qlora"][0], runs["peer"][0])]
        row["max_loss_difference"] = max(abs(a - b) for a, b in zip(*losses))
    return row


def print_row(row: dict) -> None:
    units = {"tokens_per_cpu_second": (1, "tokens per CPU-second"), "tokens_per_second": (1, "tokens per second (wall)"),
             "start_seconds": (1, "start to first step, s"), "first_step_seconds": (1, "start to end of first step, s"),
             "peak_rss_bytes": (2**20, "peak RSS, MiB")}
    print(f"\n{row['dtype']}, {row['threads']} thread(s)          median (min .. max)")
    for key, (divisor, label) in units.items():
        cells = []
        for side in ("qlora", "peer"):
            if side in row:
                s = {k: v / divisor for k, v in row[side][key].items()}
                cells.append(f"{side} {s['median']:8.2f} ({s['min']:.2f} .. {s['max']:.2f})")
        if "ratio" in row:
            r = row["ratio"][key]
            cells.append(f"ratio {r['median']:.3f} ({r['min']:.3f} .. {r['max']:.3f})")
        print(f"  {label:30} " + "  ".join(cells))
    if "max_loss_difference" in row:
        print(f"  first {COMPARED_LOSSES} losses differ by at most {row['max_loss_difference']:.2e} (allowed {LOSS_TOLERANCE[row['dtype']]:.0e})")


def print_scaling(rows: list) -> None:
    for dtype in ("bf16", "fp32"):
        for side in ("qlora", "peer"):
            by_threads = {r["threads"]: r[side]["tokens_per_second"]["median"] for r in rows if r["dtype"] == dtype and side in r}
            if {1, 2} <= set(by_threads):
                print(f"{dtype} {side}: two threads give {by_threads[2] / by_threads[1]:.2f} times the tokens per second of one")


def failures(rows: list) -> list:
    """Losses must agree in every row; the floors are for BF16 on one thread."""
    found = []
    for row in rows:
        if row.get("max_loss_difference", 0) > LOSS_TOLERANCE[row["dtype"]]:
            found.append(f"losses of {row['dtype']}, {row['threads']} thread(s) differ by {row['max_loss_difference']:.2e}")
        if "ratio" in row and (row["dtype"], row["threads"]) == ("bf16", 1):
            for key, floor in FLOORS.items():
                ratio = row["ratio"][key]["median"]
                met = ratio >= floor if floor > 1 else ratio <= floor
                print(f"{'met   ' if met else 'MISSED'} {key}: ratio {ratio:.3f}, {'at least' if floor > 1 else 'at most'} {floor:.3f}")
                if not met:
                    found.append(f"{key} misses its floor")
    return found


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12, help="optimizer steps a run; the first two are not timed")
    parser.add_argument("--rows", default="bf16:1,bf16:2,fp32:1", help="dtype:threads, ...")
    parser.add_argument("--only", choices=("qlora", "peer"), help="measure one side alone")
    parser.add_argument("--qlora", type=pathlib.Path, default=ROOT / "build/bin/qlora")
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / ".cache/peers", help="tokens.safetensors and init_adapter/")
    parser.add_argument("--json", type=pathlib.Path, default=ROOT / ".cache/peers/compare.json")
    options = parser.parse_args()
    options.scratch = ROOT / ".cache" / "peers" / "runs"
    options.scratch.mkdir(parents=True, exist_ok=True)
    if options.only != "peer" and not options.qlora.exists():
        sys.exit(f"[bench] {options.qlora} is missing: build first (scripts/test.sh), or measure the peer alone with --only peer")
    if options.steps < SKIPPED_STEPS + 2:
        sys.exit(f"[bench] --steps {options.steps}: at least {SKIPPED_STEPS + 2} are needed")
    return options


def main() -> None:
    options = parse_arguments()
    machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count(), "load": os.getloadavg()}
    if machine["load"][0] > 0.5:
        print(f"[bench] load average {machine['load'][0]:.2f}: something else is running, the numbers will be too low")
    rows = []
    for text in options.rows.split(","):
        dtype, threads = text.split(":")
        rows.append(compare_row(options, dtype, int(threads)))
    for row in rows:
        print_row(row)
    print_scaling(rows)
    found = failures(rows)
    result = {"machine": machine, "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "steps": options.steps, "rounds": options.rounds,
              "failures": found, "rows": rows}
    options.json.write_text(json.dumps(result, indent=1))
    print(f"wrote {options.json}")
    if found:
        sys.exit("[bench] " + "; ".join(found))


if __name__ == "__main__":
    main()
