"""Encodes the same texts with the program's tokenizers and with the Rust library `tokenizers`, one thread each.

Usage: python compare.py TOKENIZE_TOOL FOLDER...      folders with a tokenizer.json
Prints MB/s of processor time, the median of the rounds, for each folder and set of texts. Texts: those of
tests/data/corpus.cpp, and Python's standard library in stretches of 4,000 characters.
"""
import os

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"

import pathlib
import statistics
import sys
import time

import tokenizers

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests" / "interop"))
from tokenizer_reference import corpus, run_tool  # noqa: E402
from trained_tokenizers import mixed_text  # noqa: E402

ROUNDS = 3


def ours(tool, folder, encoded):
    lines = run_tool(tool, ["time", folder], encoded).decode().splitlines()
    speeds = [float(line.split(", ")[-1].split()[0]) for line in lines]
    return statistics.median(speeds), float(lines[0].split()[1])


def theirs(folder, texts, size):
    begin = time.process_time()
    tokenizer = tokenizers.Tokenizer.from_file(str(pathlib.Path(folder) / "tokenizer.json"))
    load_ms = 1e3 * (time.process_time() - begin)
    speeds = []
    for _ in range(ROUNDS):
        begin = time.process_time()
        for text in texts:
            tokenizer.encode(text, add_special_tokens=False)
        speeds.append(size / (time.process_time() - begin) / 1e6)
    return statistics.median(speeds), load_ms


def main(tool, *folders):
    sets = {"mixed": mixed_text(3_000_000), "corpus": corpus(tool, "corpus"), "random": corpus(tool, "random")[:20_000]}
    slower = 0
    print("| tokenizer | texts | program MB/s | tokenizers MB/s | ratio |\n|---|---|---|---|---|")
    for folder in folders:
        for kind, texts in sets.items():
            encoded = [t.encode() for t in texts]
            size = sum(map(len, encoded))
            (mine, load), (other, other_load) = ours(tool, folder, encoded), theirs(folder, texts, size)
            slower += mine < other
            path = pathlib.Path(folder)
            name = path.parent.name if path.name == "json" else path.name
            print(f"| {name} | {kind}, {size / 1e6:.1f} MB | {mine:.1f} | {other:.1f} | {mine / other:.1f} |", flush=True)
        print(f"  loading {pathlib.Path(folder).parent.name}: {load:.0f} ms, tokenizers {other_load:.0f} ms")
    sys.exit(1 if slower else 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
