"""Draws docs/qat.svg: held-out perplexity against steps, of a run on the grid and of a plain run that is rounded afterwards.

    .venv/bin/python bench/qat/figure.py [--bits 4] [--seed 1] [--steps 250] [--name qat]

Takes the runs of recovery.py and trains what is missing; the plain run's checkpoints are rounded by GPTQ.
"""

import argparse
import json

import recovery

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 860, 420, 64, 640, 64, 368
STYLE = """<style>
  svg { --paper: #ffffff; --ink: #1c2024; --soft: #6b7280; --rule: #e3e6ea; --a: #2563c9; --b: #c2410c; --d: #15803d; }
  @media (prefers-color-scheme: dark) {
    svg { --paper: #16181c; --ink: #e8eaed; --soft: #9aa1ab; --rule: #2c3036; --a: #7aa7f0; --b: #f0955c; --d: #6cc48a; }
  }
  text { font: 13px system-ui, sans-serif; fill: var(--soft); font-variant-numeric: tabular-nums; }
  .title { font-size: 16px; font-weight: 600; fill: var(--ink); }
  .rule { stroke: var(--rule); stroke-width: 1; }
  polyline { fill: none; stroke-width: 2.2; stroke-linejoin: round; }
</style>"""


def evaluations(run):
    """(step, perplexity) of a run, without the one before the first step."""
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    found = [(record["step"], record["perplexity"]) for record in records if record["kind"] == "evaluation"]
    return [(step, perplexity) for step, perplexity in found if step > 0]


def series(options):
    qat, _ = recovery.train_on_grid(options.name, options.bits, options.seed, options.steps, {})
    plain = recovery.train_plain(options.seed, options.steps)
    part = options.steps // recovery.EVALUATIONS
    merged, rounded = [], []
    for step in range(part, options.steps + 1, part):
        stages = recovery.export(plain, f"gptq{options.bits}-step{step}", "--adapter", str(plain / f"checkpoint-{step}"),
                                 "--quantization-type", "gptq", "--bits", str(options.bits), "--group-size", str(recovery.GROUP_SIZE),
                                 "--symmetric", "false", "--merge-base", "original", "--calibration-samples", str(recovery.CALIBRATION_ROWS))
        merged += [(step, perplexity) for perplexity in recovery.perplexities(stages, "merged")]
        rounded += [(step, perplexity) for perplexity in recovery.perplexities(stages, "quantized")]
    return {"trained on the grid": evaluations(qat), "plain run, 16 bits": merged, "plain run, rounded by GPTQ": rounded}


def svg(lines, options):
    steps = options.steps
    values = [value for points in lines.values() for _, value in points]
    low, high = min(values), max(values)
    low, high = low - 0.06 * (high - low), high + 0.06 * (high - low)

    def place(step, value):
        return LEFT + (RIGHT - LEFT) * step / steps, BOTTOM - (BOTTOM - TOP) * (value - low) / (high - low)

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">', STYLE,
             f'<rect width="{WIDTH}" height="{HEIGHT}" fill="var(--paper)"/>',
             f'<text class="title" x="{LEFT}" y="32">SmolLM2-135M, {options.bits} bits in groups of 64: held-out perplexity against steps</text>']
    ticks = 6
    for i in range(ticks):
        value = low + (high - low) * i / (ticks - 1)
        y = place(0, value)[1]
        parts.append(f'<line class="rule" x1="{LEFT}" y1="{y:.1f}" x2="{RIGHT}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:.1f}</text>')
    for step in range(0, steps + 1, steps // recovery.EVALUATIONS):
        parts.append(f'<text x="{place(step, low)[0]:.1f}" y="{BOTTOM + 22}" text-anchor="middle">{step}</text>')
    colours = ("var(--a)", "var(--d)", "var(--b)")
    labels = []
    for colour, (name, points) in zip(colours, lines.items()):
        placed = [place(*point) for point in points]
        parts.append(f'<polyline stroke="{colour}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in placed)}"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in placed]
        labels.append((placed[-1][1], colour, f"{name}: {points[-1][1]:.2f}"))
    last = -1000
    for y, colour, text in sorted(labels):
        last = max(y + 4, last + 17)
        parts.append(f'<text x="{RIGHT + 10}" y="{last:.1f}" style="fill:{colour}">{text}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--name", default="qat")
    options = parser.parse_args()
    (recovery.ROOT / "docs" / "qat.svg").write_text(svg(series(options), options))


if __name__ == "__main__":
    main()
