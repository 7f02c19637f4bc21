#!/usr/bin/env python3
"""Writes docs/kernels.md: what ptxas and the occupancy calculator say of every kernel, and the bytes that it moves.

Usage: scripts/kernel_sheet.py [--check] [--build FOLDER] [--ptxas FILE]
  --check   writes nothing; fails where the page is not what would be written, or where a kernel spills registers
The emulated tests must have run before (.venv/bin/ctest --test-dir build -L emulated): they log how kernels are launched.
"""
import argparse
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/kernels.md"
CAPABILITIES = (80, 89, 90, 100)
HEAD = """# Kernels

What can be said of the kernels without a GPU. Made by `scripts/kernel_sheet.py`; do not edit. A test fails where it is stale, or where a kernel spills registers.

## Registers, shared memory, occupancy
By `ptxas -v` from the PTX for compute capability 8.0, and by NVIDIA's occupancy calculator (`cuda_occupancy.h`), for capability {capabilities}. Threads are those of a block. Occupancy: threads that a multiprocessor holds at once, in percent of the most it can.

| kernel | threads | shared bytes | registers | occupancy |
|---|---|---|---|---|
"""
BYTES_HEAD = """
## Bytes per element
*Least*: each input read once, each output written once. *Asked for*: what the threads' loads and stores add up to under emulation, arrays only; what lies above the least are scales that threads with neighbouring elements read again, which caches serve.

| call | least | asked for | read | written |
|---|---|---|---|---|
"""


class Failure(Exception):
    """Something that the sheet must not show."""


def run(*command, **options):
    result = subprocess.run([str(x) for x in command], capture_output=True, text=True, **options)
    if result.returncode != 0:
        raise Failure(f"{' '.join(map(str, command))}: {result.stderr.strip() or result.stdout.strip()}")
    return result.stdout + result.stderr


def short_names(mangled):
    """entry -> quant: dequantize_nf4_kernel<BF16>, from the demangled signature."""
    lines = run("c++filt", input="\n".join(mangled)).splitlines()
    names = {}
    for entry, line in zip(mangled, lines):
        plain = line.replace("(anonymous namespace)::", "").removeprefix("void ")
        match = re.match(r"qlora::(?:(\w+)::)?([\w]+(?:<.*?>)?)\(", plain)
        if match is None:
            raise Failure(f"no kernel of this project: {line}")
        function = re.sub(r"qlora::(\w+::)*", "", match[2])
        names[entry] = f"{match[1]}: `{function}`"
    return names


def launches(build):
    """entry -> (most threads of a block, most dynamic shared bytes), from the launch log."""
    found = {}
    for file in (build / "tests/kernels/launch-log").glob("*"):
        for line in file.read_text().splitlines():
            entry, _, _, threads, shared = line.split()
            before = found.get(entry, (0, 0))
            found[entry] = (max(before[0], int(threads)), max(before[1], int(shared)))
    if not found:
        raise Failure("no launch log; run .venv/bin/ctest --test-dir build -L emulated first")
    return found


def ptxas_facts(ptxas, files):
    """(entry, capability) -> (registers, shared bytes)."""
    facts = {}
    for capability in CAPABILITIES:
        for file in files:
            text = run(ptxas, "-v", f"-arch=sm_{capability}", file, "-o", "/dev/null")
            for block in text.split("Compiling entry function '")[1:]:
                entry = block[:block.index("'")]
                spills = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", block)
                registers = re.search(r"Used (\d+) registers", block)
                shared = re.search(r"(\d+) bytes smem", block)
                if spills is None or registers is None:
                    raise Failure(f"ptxas says nothing known of {entry}: {block}")
                if spills[1] != "0" or spills[2] != "0":
                    raise Failure(f"{entry} spills registers on sm_{capability}: {spills[0]}")
                facts[entry, capability] = int(registers[1]), int(shared[1]) if shared else 0
    return facts


def occupancies(build, queries):
    lines = "".join(f"{c} {registers} {shared} {threads}\n" for c, registers, shared, threads in queries)
    answers = [int(x) for x in run(build / "tests/kernel_occupancy", input=lines).split()]
    if len(answers) != len(queries) or min(answers) <= 0:
        raise Failure("the occupancy calculator refuses a kernel")
    return answers


def joined(values):
    """One value where all are the same."""
    return str(values[0]) if len(set(values)) == 1 else " / ".join(map(str, values))


def resource_rows(build, ptxas):
    files = sorted((build / "tests/kernels/kernels_cudart").glob("*.ptx"))
    facts, seen = ptxas_facts(ptxas, files), launches(build)
    entries = sorted({entry for entry, _ in facts})
    missing = [entry for entry in entries if entry not in seen]
    if missing:
        raise Failure(f"never launched, according to the log: {', '.join(missing)}")
    names = short_names(entries)
    rows = []
    for entry in sorted(entries, key=names.get):
        threads, dynamic = seen[entry]
        registers, shared = zip(*(facts[entry, c] for c in CAPABILITIES))
        percent = occupancies(build, [(c, r, s + dynamic, threads) for c, r, s in zip(CAPABILITIES, registers, shared)])
        rows.append(f"| {names[entry]} | {threads} | {joined([s + dynamic for s in shared])} | {joined(registers)} | "
                    f"{joined(percent)} |\n")
    return rows


def byte_rows(build):
    text = run(build / "tests/cuda_selftest_emulated", "--count-bytes")
    rows = []
    for line in text.splitlines():
        name, elements, least, read, written = line.split("\t")
        per = [int(x) / int(elements) for x in (least, read, written)]
        rows.append(f"| {name} | {per[0]:.3f} | {per[1] + per[2]:.3f} | {per[1]:.3f} | {per[2]:.3f} |\n")
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build")
    parser.add_argument("--ptxas", default="ptxas")
    arguments = parser.parse_args()
    try:
        names = ", ".join(f"{c // 10}.{c % 10}" for c in CAPABILITIES)
        page = "".join([HEAD.format(capabilities=names), *resource_rows(arguments.build, arguments.ptxas), BYTES_HEAD,
                        *byte_rows(arguments.build)])
    except Failure as failure:
        sys.exit(f"[kernel_sheet] {failure}")
    if not arguments.check:
        PAGE.write_text(page)
    elif not PAGE.exists() or PAGE.read_text() != page:
        sys.exit("[kernel_sheet] docs/kernels.md is stale; run scripts/kernel_sheet.py")


main()
