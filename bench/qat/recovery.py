"""Recovery of quantization-aware training over the best post-training quantization. See run.sh."""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
QLORA = os.environ.get("QLORA", ROOT / "build" / "bin" / "qlora")
DATA = os.environ.get("DATA", "datasets/wordnet-1024")  # 1,024 rows held out: the quickstart's 128 hardly tell seeds apart
RUNS = ROOT / "runs" / "qat-recovery" / pathlib.Path(DATA).name
GROUP_SIZE = 64  # 576 columns are no multiple of 128
CALIBRATION_ROWS = 512
EVALUATIONS = 5  # in a run, and checkpoints of the plain one, for figure.py

# How the grid is trained at each number of bits, beside what --qat says.
DEFAULTS = {
    4: {"qat.scheme": "int4-gptq", "qat.bits": "4"},
    3: {"qat.scheme": "int4-gptq", "qat.bits": "3", "qat.start_from": "gptq", "qat.scales": "anchored"},
}
COMMON = {
    "qat.group_size": str(GROUP_SIZE),
    "qat.symmetric": "false",
    "qat.merge_base": "original",
    "quantization.load_in_4bit": "false",
    "qat.scales": "learned",
    "qat.awq_scales": "true",
    "export.calibration_samples": str(CALIBRATION_ROWS),
    "export.after_training": "false",
}


def qlora(*arguments):
    """Runs the program; returns its one JSON object."""
    done = subprocess.run([str(QLORA), *arguments, "--json"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"qlora {' '.join(arguments)}\n{done.stderr}")
    return json.loads(done.stdout)


def kept(file, make):
    """What `make` returns, from the file where an earlier call left it."""
    if not file.exists():
        result = make()
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(result, indent=1) + "\n")
    return json.loads(file.read_text())


def train(name, seed, steps, settings):
    run = RUNS / f"{name}-{steps}-seed{seed}"
    part = str(max(steps // EVALUATIONS, 1))
    assignments = {
        "seed": str(seed),
        "max_steps": str(steps),
        "eval_steps": part,
        "per_device_eval_batch_size": "32",
        "eval_on_start": "false",
        "save_strategy": "no",
        "save_steps": part,
        "save_total_limit": "0",
        "data.dataset_name": f"{DATA}/train.jsonl",
        "data.eval_dataset_name": f"{DATA}/heldout.jsonl",
        **settings,
    }
    flags = [part for key, value in assignments.items() for part in ("--set", f"{key}={value}")]

    def make():
        shutil.rmtree(run, ignore_errors=True)
        return qlora("train", "configs/smollm2-quickstart.json", "--output-dir", str(run), *flags)

    return run, kept(run.with_suffix(".json"), make)


def train_plain(seed, steps):
    return train("plain", seed, steps, {"save_strategy": "steps"})[0]


def train_on_grid(name, bits, seed, steps, settings):
    return train(f"{name}{bits}", seed, steps, {**COMMON, **DEFAULTS[bits], **settings})


def export(run, name, *flags):
    """Stages of the report; the written model is measured and dropped."""
    folder = run.with_name(f"{run.name}-{name}")

    def make():
        shutil.rmtree(folder, ignore_errors=True)
        report = qlora("export", "--run", str(run), "--output-dir", str(folder), "--overwrite", *flags)
        shutil.rmtree(folder)
        return {"grid": report["grid"], "seconds": report["seconds"], "stages": report["stages"]}

    return kept(folder.with_suffix(".json"), make)["stages"]


def perplexities(stages, kind):
    return [stage["perplexity"] for stage in stages if stage["kind"] == kind]


def post_training(run, bits, methods, base):
    """Perplexity by method, and of the merged model in 16 bits: the better base of each."""
    result, merged = {}, []
    for method in methods:
        flags = ["--quantization-type", method, "--bits", str(bits), "--group-size", str(GROUP_SIZE), "--symmetric", "false"]
        flags += ["--format", "awq" if method == "awq" and bits == 4 else "gptq"]
        flags += ["--calibration-samples", str(CALIBRATION_ROWS), "--merge-base", base]
        stages = export(run, f"{method}{bits}-{base}", *flags)
        result[method] = min(perplexities(stages, "quantized"))
        merged += perplexities(stages, "merged")
    return result, min(merged)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--bits", default="4,3")
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--qat", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--name", default="qat", help="of the runs on the grid")
    parser.add_argument("--ptq", default="rtn,gptq,awq")
    parser.add_argument("--base", default="auto", help="merge base of the plain run: auto tries both, original half as long")
    options = parser.parse_args()
    methods = options.ptq.split(",")
    extra = dict(assignment.split("=", 1) for assignment in options.qat)
    heads = ["bits", "seed", "merged, 16 bits", *methods, "QAT run", "QAT exported", "recovery"]
    print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads), flush=True)
    for bits in map(int, options.bits.split(",")):
        recoveries = []
        for seed in map(int, options.seeds.split(",")):
            plain = train_plain(seed, options.steps)
            run, facts = train_on_grid(options.name, bits, seed, options.steps, extra)
            stages = export(run, "export")
            trained = facts["last_evaluation"]["perplexity"]
            print(f"   {run.name}: {trained:.3f} in training, {perplexities(stages, 'quantized')} exported", file=sys.stderr, flush=True)
            ptq, merged = post_training(plain, bits, methods, options.base)
            (exported,) = perplexities(stages, "quantized")
            best = min(ptq.values())
            recoveries.append((best - exported) / (best - merged))
            numbers = [merged, *ptq.values(), trained, exported]
            print(f"| {bits} | {seed} | " + " | ".join(f"{number:.3f}" for number in numbers) + f" | {recoveries[-1]:.0%} |", flush=True)
        spread = max(recoveries) - min(recoveries)
        print(f"| {bits} | mean | | " + " | " * len(methods) + f"| | {statistics.mean(recoveries):.0%}, spread {spread:.0%} |", flush=True)


if __name__ == "__main__":
    main()
