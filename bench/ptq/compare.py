"""`qlora export` and the Python quantizers on the same model, tokens and threads, in alternation. See run.sh."""

import argparse
import dataclasses
import json
import math
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "interop"))

import export_decoder  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

MODEL = ROOT / "models" / "smollm2-135m-hf"
GROUP_SIZE = 64  # 576 columns are no multiple of 128
WALL_LIMIT, MEMORY_LIMIT = 1 / 2, 1 / 3  # ours / peer
HELDOUT_BLOCKS = 32


@dataclasses.dataclass
class Row:
    name: str
    peer: tuple  # venv, script, arguments; empty: ours alone
    ours: tuple  # arguments of `qlora export`
    blocks: int  # of 128 calibration tokens


ROWS = [
    Row("gptq asym", (".venv-export", "quantize_gptqmodel.py"), ("--quantization-type", "gptq", "--symmetric", "false", "--set", "export.desc_act=false"), 128),
    Row("gptq asym desc_act", (".venv-export", "quantize_gptqmodel.py", "--desc-act"), ("--quantization-type", "gptq", "--symmetric", "false", "--set", "export.desc_act=true"), 128),
    Row("gptq sym", (".venv-export", "quantize_gptqmodel.py", "--symmetric"), ("--quantization-type", "gptq", "--symmetric", "true", "--set", "export.desc_act=false"), 128),
    Row("awq", (".venv-autoawq", "quantize_autoawq.py"), ("--quantization-type", "awq"), 16),
]  # fmt: skip


@dataclasses.dataclass
class Run:
    wall_seconds: float
    cpu_seconds: float
    peak_rss_bytes: int
    load_before: float
    stages: dict  # what the peer says about itself


def peak_bytes(pid: int) -> int:
    """Highest resident size of a running process since it began or was told to begin anew; 0 where it has ended."""
    try:
        with open(f"/proc/{pid}/status") as status:
            return next((int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM")), 0)
    except OSError:
        return 0


def measure(command: list, output: pathlib.Path, threads: int) -> Run:
    """Wall time, CPU time and peak RSS of a process with its children, seen from outside; the same for both sides."""
    load = os.getloadavg()[0]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    with open(output, "wb") as out, open(output.with_suffix(".err"), "wb") as err:
        begin = time.monotonic()
        process = subprocess.Popen([str(c) for c in command], stdout=out, stderr=err, stdin=subprocess.DEVNULL, env=environment)
        # Not ru_maxrss: that of a child begins with the size of this process, which has loaded models.
        peak, ended = 0, 0
        while ended == 0:
            peak = max(peak, peak_bytes(process.pid))
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
            time.sleep(0 if ended else 0.02)
        wall = time.monotonic() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        tail = output.with_suffix(".err").read_text(errors="replace")[-2000:]
        raise SystemExit(f"[bench] {' '.join(map(str, command))} ended with {process.returncode}:\n{tail}")
    lines = output.read_text(errors="replace").strip().splitlines()
    stages = json.loads(lines[-1]) if lines and lines[-1].startswith('{"load_seconds"') else {}
    return Run(wall, usage.ru_utime + usage.ru_stime, peak, load, stages)


def calibration_rows(options, blocks: int) -> str:
    """The first blocks of `train` in a file of their own: `qlora export` chooses at random where there are more than it takes."""
    path = options.scratch / f"calibration-{blocks}.safetensors"
    save_file({"train": load_file(options.work / "tokens.safetensors")["train"][:blocks].clone()}, path)
    return f"{path}:train"


def run_qlora(options, row: Row, target: pathlib.Path) -> Run:
    command = [options.qlora, "export", "--model-path", MODEL, "--output-dir", target, *row.ours, "--bits", "4", "--group-size", GROUP_SIZE,
               "--tokens", calibration_rows(options, row.blocks), "--calibration-samples", row.blocks, "--max-seq-length", "128",
               "--set", "export.evaluate=false", "--threads", options.threads]  # fmt: skip
    return measure(command, options.scratch / "qlora.out", options.threads)


def run_peer(options, row: Row, target: pathlib.Path) -> Run:
    venv, script, *arguments = row.peer
    command = [ROOT / venv / "bin" / "python", ROOT / "bench" / "ptq" / script, "--model", MODEL, "--tokens", options.work / "tokens.safetensors",
               "--blocks", row.blocks, "--output", target, "--group-size", GROUP_SIZE, "--threads", options.threads, *arguments]  # fmt: skip
    return measure(command, options.scratch / "peer.out", options.threads)


def perplexity(folder: pathlib.Path, tokens: torch.Tensor) -> float:
    """FP32 on the decoded weights, every block on its own: 127 predictions each."""
    model = export_decoder.reference_model(export_decoder.decode(folder))
    total = sum(export_decoder.mean_loss(export_decoder.logits_of(model, b[None]), b[None]) for b in tokens.numpy())
    return math.exp(total / len(tokens))


def measure_row(options, row: Row, heldout: torch.Tensor) -> dict:
    result = {"name": row.name, "blocks": row.blocks}
    sides = [s for s in ("qlora", "peer") if options.only in (None, s)]
    runs = {s: [] for s in sides}
    for round_ in range(options.rounds):
        for side in sides:
            target = options.scratch / f"{row.name.replace(' ', '-')}-{side}"
            for left in (target, target.with_name(target.name + ".work")):  # an interrupted export would be gone on with
                shutil.rmtree(left, ignore_errors=True)
            run = (run_qlora if side == "qlora" else run_peer)(options, row, target)
            runs[side].append(run)
            print(f"  {row.name} round {round_ + 1} {side:5}: {run.wall_seconds:6.1f} s, {run.cpu_seconds:6.1f} CPU-s, peak {run.peak_rss_bytes / 2**20:5.0f} MiB, "
                  f"load before {run.load_before:.2f} {json.dumps({k: round(v, 1) for k, v in run.stages.items()}) if run.stages else ''}", flush=True)  # fmt: skip
    torch.set_num_threads(options.threads)
    for side in sides:
        folder = options.scratch / f"{row.name.replace(' ', '-')}-{side}"
        result[side] = {key: statistics.median(getattr(r, key) for r in runs[side]) for key in ("wall_seconds", "cpu_seconds", "peak_rss_bytes")}
        result[side]["runs"] = [dataclasses.asdict(r) for r in runs[side]]
        result[side]["perplexity"] = perplexity(folder, heldout)
    if len(sides) == 2:
        # Round i of one side stands beside round i of the other: both saw about the same machine.
        pairs = list(zip(runs["qlora"], runs["peer"]))
        result["ratio"] = {key: statistics.median(getattr(a, key) / getattr(b, key) for a, b in pairs) for key in ("wall_seconds", "cpu_seconds", "peak_rss_bytes")}
    return result


def print_results(rows: list, base: float) -> None:
    print(f"\nheldout perplexity of the model itself (FP32): {base:.3f}")
    print(f"{'':20} {'wall s':>18} {'CPU s':>18} {'peak MiB':>18} {'heldout perplexity':>20}")
    print(f"{'':20} " + " ".join(f"{'qlora':>8} {'peer':>9}" for _ in range(3)) + f"  {'qlora':>8} {'peer':>10}")
    for row in rows:
        cells = []
        for key, divisor in (("wall_seconds", 1), ("cpu_seconds", 1), ("peak_rss_bytes", 2**20)):
            cells += [f"{row[s][key] / divisor:.1f}" if s in row else "-" for s in ("qlora", "peer")]
        cells += [f"{row[s]['perplexity']:.3f}" if s in row else "-" for s in ("qlora", "peer")]
        print(f"{row['name']:20} " + " ".join(f"{c:>{w}}" for c, w in zip(cells, (8, 9, 8, 9, 8, 9, 9, 10))))


def failures(rows: list) -> list:
    found = []
    for row in rows:
        if "ratio" not in row:
            continue
        for key, limit in (("wall_seconds", WALL_LIMIT), ("peak_rss_bytes", MEMORY_LIMIT)):
            met = row["ratio"][key] <= limit
            print(f"{'met   ' if met else 'MISSED'} {row['name']}: {key} ratio {row['ratio'][key]:.3f}, at most {limit:.3f} (CPU seconds {row['ratio']['cpu_seconds']:.3f})")
            if not met:
                found.append(f"{row['name']}: {key} is above its limit")
    return found


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", default="gptq asym,gptq asym desc_act,awq", help=f"comma-separated of: {', '.join(r.name for r in ROWS)}")
    parser.add_argument("--only", choices=("qlora", "peer"), help="measure one side alone")
    parser.add_argument("--qlora", type=pathlib.Path, default=ROOT / "build/bin/qlora")
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / ".cache/peers", help="folder with tokens.safetensors")
    parser.add_argument("--json", type=pathlib.Path, default=ROOT / ".cache/ptq/compare.json")
    options = parser.parse_args()
    options.scratch = ROOT / ".cache" / "ptq"
    options.scratch.mkdir(parents=True, exist_ok=True)
    wanted = options.rows.split(",")
    unknown = [w for w in wanted if w not in [r.name for r in ROWS]]
    if unknown:
        sys.exit(f"[bench] {unknown[0]!r} is no row, allowed: {', '.join(r.name for r in ROWS)}")
    options.rows = [r for r in ROWS if r.name in wanted]
    if options.only != "peer" and not options.qlora.exists():
        sys.exit(f"[bench] {options.qlora} is missing: build first (scripts/build.sh), or measure the peers alone with --only peer")
    return options


def main() -> None:
    options = parse_arguments()
    if os.getloadavg()[0] > 0.5:
        print(f"[bench] load average {os.getloadavg()[0]:.2f}: something else is running, wall times will be too long")
    heldout = load_file(options.work / "tokens.safetensors")["heldout"][:HELDOUT_BLOCKS]
    rows = [measure_row(options, row, heldout) for row in options.rows]
    base = perplexity(MODEL, heldout)
    print_results(rows, base)
    found = failures(rows)
    options.json.write_text(json.dumps({"threads": options.threads, "base_perplexity": base, "rows": rows}, indent=1) + "\n")
    print(f"wrote {options.json}")
    sys.exit("[bench] " + "; ".join(found) if found else 0)


if __name__ == "__main__":
    main()
