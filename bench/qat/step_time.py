"""What a step on the grid costs: time and peak memory against the same run without section `qat`. See step_time.sh."""

import argparse
import json
import statistics

import recovery

ROWS = {
    "plain": {},
    "minmax": {"qat.scales": "minmax"},
    "clip": {"qat.scales": "clip"},
    "learned": {"qat.scales": "learned"},
    "anchored": {"qat.scales": "anchored"},
}
LIMITS = {"minmax": 1.4, "clip": 1.75, "learned": 1.75, "anchored": 1.75}
MOST_MEMORY = 1.1
SKIPPED_STEPS = 2


def measure(name, steps):
    before = {"qat.awq_scales": "false", "qat.start_from": ""}  # done before the first step
    grid = {} if name == "plain" else {**recovery.COMMON, **recovery.DEFAULTS[4], **before, **ROWS[name]}
    settings = {"quantization.load_in_4bit": "false", **grid, "eval_strategy": "no"}
    run = recovery.RUNS / f"time-{name}-{steps}-seed1"
    run.with_suffix(".json").unlink(missing_ok=True)
    _, facts = recovery.train(f"time-{name}", 1, steps, settings)
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    seconds = [r["seconds"] / r["tokens"] for r in records if r["kind"] == "step"][SKIPPED_STEPS:]
    return statistics.median(seconds), facts["peak_rss_bytes"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    results = {name: [] for name in ROWS}
    for _ in range(options.rounds):
        for name in ROWS:
            results[name].append(measure(name, options.steps))
    failed = []
    print("| scales | tokens per second | step, of plain | peak memory, MB | of plain |\n|---|---|---|---|---|")
    for name, rounds in results.items():
        ratios = [a[0] / b[0] for a, b in zip(rounds, results["plain"])]
        memory = [a[1] / b[1] for a, b in zip(rounds, results["plain"])]
        rate = statistics.median(1 / r[0] for r in rounds)
        peak = statistics.median(r[1] for r in rounds) / 1e6
        print(f"| {name} | {rate:.0f} | {statistics.median(ratios):.2f} | {peak:.0f} | {statistics.median(memory):.2f} |")
        if statistics.median(ratios) > LIMITS.get(name, 1.0) or statistics.median(memory) > MOST_MEMORY:
            failed.append(name)
    if failed:
        raise SystemExit(f"[bench] above the limits ({LIMITS}, memory {MOST_MEMORY}): {', '.join(failed)}")


if __name__ == "__main__":
    main()
