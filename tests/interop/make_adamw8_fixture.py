"""Six steps of bitsandbytes' and torch's AdamW on the CPU, with the gradients: tests/fixtures/bnb/adamw8.

Usage: make_adamw8_fixture.py OUTPUT_FOLDER        (in the peers' environment, scripts/setup_peers.sh)
"""
import sys
from pathlib import Path

import bitsandbytes as bnb
import torch
from bitsandbytes.functional import create_dynamic_map
from safetensors.torch import save_file

STEPS = 6
CASES = [  # name, optimizer, weight decay
    ("adamw8_wd0", bnb.optim.AdamW8bit, 0.0),
    ("adamw8_wd01", bnb.optim.AdamW8bit, 0.1),
    ("adamw32_wd01", bnb.optim.AdamW, 0.1),
    ("torch_wd01", torch.optim.AdamW, 0.1),
]


def is_kept(case: str, tensor: str, step: int, of_state: bool) -> bool:
    """Which steps the file holds: all of the small tensors, few of the large one."""
    large = tensor == "big_8x600"
    if step == STEPS:
        return True
    if not case.startswith("adamw8"):
        return False
    if of_state:
        return step == 1 or (not large and tensor == "odd_41x101")
    return step in (1, 2, 3, 5) and (not large or (case == "adamw8_wd0" and step <= 2))


def main() -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(77)
    start = {
        "big_8x600": torch.randn(8, 600, generator=generator) * 0.02,
        "odd_41x101": torch.randn(41, 101, generator=generator) * 0.5,
        "small_16x16": torch.randn(16, 16, generator=generator) * 0.1,
    }
    gradients = {}
    for name, p in start.items():
        rows = (p.shape[0], 1)
        gradients[name] = [
            torch.randn(p.shape, generator=generator)
            * (10.0 ** torch.randint(-4, 0, rows, generator=generator))
            for _ in range(STEPS)
        ]
        gradients[name][2][0] = 0.0

    out = {"qmap1": create_dynamic_map(signed=True), "qmap2": create_dynamic_map(signed=False)}
    for name, p in start.items():
        out[f"param0.{name}"] = p
        for i, gradient in enumerate(gradients[name]):
            out[f"grad.{name}.{i + 1}"] = gradient
    for case, optimizer_type, decay in CASES:
        parameters = {n: torch.nn.Parameter(p.clone()) for n, p in start.items()}
        optimizer = optimizer_type(
            list(parameters.values()), lr=2e-4, betas=(0.9, 0.999), eps=1e-8, weight_decay=decay
        )
        for step in range(1, STEPS + 1):
            for name, p in parameters.items():
                p.grad = gradients[name][step - 1].clone()
            optimizer.step()
            for name, p in parameters.items():
                key, state = f"{case}.{name}.step{step}", optimizer.state[p]
                if is_kept(case, name, step, of_state=False):
                    out[f"{key}.param"] = p.detach().clone()
                if case != "torch_wd01" and is_kept(case, name, step, of_state=True):
                    for part in ("state1", "state2", "absmax1", "absmax2"):
                        if part in state:
                            out[f"{key}.{part}"] = state[part].clone()
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in out.items()}, folder / "reference.safetensors")


if __name__ == "__main__":
    main()
