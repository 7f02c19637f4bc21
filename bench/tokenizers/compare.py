"""Encodes the same texts with the program's tokenizers and with the Rust library `tokenizers`, one thread each.

Usage: python compare.py TOKENIZE_TOOL [FOLDER...]      folders with a tokenizer.json
Without folders: trains one for each family, as tests/interop/trained_tokenizers.py does.
Prints MB/s of processor time, the median of rounds in turns, for each folder and set of texts, and exits with 1 where
the program is slower. The library is taken by the quicker of its two calls: encode, text by text, and
encode_batch_fast, which leaves the offsets out. Texts: those of tests/data/corpus.cpp, and Python's standard library
in stretches of 4,000 characters.
"""
import os

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"

import pathlib
import statistics
import sys
import tempfile
import time

import tokenizers

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests" / "interop"))
from tokenizer_reference import corpus, run_tool  # noqa: E402
from trained_tokenizers import byte_level_families, mixed_text, other_words, sentencepiece_families  # noqa: E402

ROUNDS = 3


def ours(tool, folder, encoded):
    """Speeds in MB/s and milliseconds of loading."""
    lines = run_tool(tool, ["time", folder], encoded).decode().splitlines()
    return [float(line.split(", ")[-1].split()[0]) for line in lines], float(lines[0].split()[1])


def load_theirs(folder):
    begin = time.process_time()
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    return tokenizer, 1e3 * (time.process_time() - begin)


def theirs(tokenizer, texts, size):
    def one_by_one():
        for text in texts:
            tokenizer.encode(text, add_special_tokens=False)

    def as_batch():
        tokenizer.encode_batch_fast(texts, add_special_tokens=False)

    speeds = []
    for call in (one_by_one, as_batch):
        begin = time.process_time()
        call()
        speeds.append(size / (time.process_time() - begin) / 1e6)
    return speeds


def compare(tool, name, folder, kind, texts):
    """One row of the table; true where the program is not slower."""
    encoded = [t.encode() for t in texts]
    size = sum(map(len, encoded))
    tokenizer, _ = load_theirs(folder)
    mine, single, batch = [], [], []
    for _ in range(ROUNDS):  # in turns, so that the machine's moods meet both
        mine += ours(tool, folder, encoded)[0]
        one, other = theirs(tokenizer, texts, size)
        single.append(one)
        batch.append(other)
    speed = statistics.median(mine)
    best = max(statistics.median(single), statistics.median(batch))
    print(f"| {name} | {kind}, {size / 1e6:.1f} MB | {speed:.1f} | {best:.1f} | {speed / best:.1f} |", flush=True)
    return speed >= best


def trained(root, texts):
    for name, tokenizer in (*byte_level_families(texts), *other_words(texts)):
        (root / name).mkdir()
        tokenizer.save(str(root / name / "tokenizer.json"))
        yield name, root / name
    for name, tokenizer, _ in sentencepiece_families(root, texts):
        folder = root / name / "json"
        folder.mkdir()
        tokenizer.save(str(folder / "tokenizer.json"))
        yield name, folder


def main(tool, *given):
    sets = {"mixed": mixed_text(3_000_000), "corpus": corpus(tool, "corpus"), "random": corpus(tool, "random")[:20_000]}
    slower = 0
    print("| tokenizer | texts | program MB/s | tokenizers MB/s | ratio |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        named = [(path.parent.name if path.name == "json" else path.name, path) for path in map(pathlib.Path, given)]
        loading = []
        training = sets["corpus"][: len(sets["corpus"]) // 3] + mixed_text()[::3]
        for name, folder in named if given else trained(pathlib.Path(temporary), training):
            for kind, texts in sets.items():
                slower += not compare(tool, name, folder, kind, texts)
            loading.append(f"{name} {ours(tool, folder, [b'x'])[1]:.0f} ({load_theirs(folder)[1]:.0f})")
    print("loading in ms, of the library in brackets: " + ", ".join(loading))
    sys.exit(1 if slower else 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
