"""Compares the project's tokenizers with the reference libraries, token for token.

Usage: python tokenizer_parity.py TOKENIZE_TOOL [--gguf FILE.gguf] [--wordnet /usr/share/wordnet] [FOLDER …]
Without FOLDER: all of tests/fixtures/tokenizers. Prints a line for each; exits 1 on a difference.
Texts: the corpora of tests/data/corpus.cpp, and WordNet's glosses where they are there.
"""
import argparse
import pathlib
import struct
import sys

from tokenizer_reference import corpus, gguf_reference, records, reference, run_tool

FIXTURES = pathlib.Path(__file__).resolve().parents[1] / "fixtures" / "tokenizers"


def glosses(folder, most_bytes=3_000_000):
    texts, size = [], 0
    for path in sorted(pathlib.Path(folder).glob("data.*")):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if " | " in line and size < most_bytes:
                texts.append(line.split(" | ", 1)[1])
                size += len(texts[-1])
    return texts


def compare(tool, name, path, known, texts):
    encoded = [t.encode() for t in texts]
    ours = [list(struct.unpack(f"<{len(r) // 4}i", r))
            for r in records(run_tool(tool, ["encode", path], encoded), 4)]
    theirs = known.encode(texts)
    wrong = [(t, a, b) for t, a, b in zip(texts, ours, theirs) if a != b]
    ties = [w for w in wrong if known.is_tie(w[1], w[2])]
    wrong = [w for w in wrong if w not in ties]
    for text, a, b in wrong[:3]:
        at = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
        print(f"  {text[:300]!r}\n    ours   {a[max(0, at - 3) : at + 9]}\n    theirs {b[max(0, at - 3) : at + 9]}")
    undone = 0
    if known.decode:
        packed = [struct.pack(f"<{len(i)}i", *i) for i in theirs]
        back = [r.decode() for r in records(run_tool(tool, ["decode", path, "keep"], packed, unit=4), 1)]
        for ids, text in zip(theirs, back):
            if known.decode(ids) != text:
                undone += 1
                if undone < 3:
                    print(f"  decode {ids[:20]}\n    ours   {text[:80]!r}\n    theirs {known.decode(ids)[:80]!r}")
    tokens = sum(map(len, theirs))
    note = f", {len(ties)} with ties broken otherwise" if ties else ""
    print(f"{name}: {len(texts)} texts, {tokens} tokens, {len(wrong)} encoded and {undone} decoded "
          f"differently{note}")
    return len(texts) == len(ours) and not wrong and not undone


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("tool")
    parser.add_argument("folders", nargs="*")
    parser.add_argument("--gguf")
    parser.add_argument("--wordnet", default="/usr/share/wordnet")
    args = parser.parse_args()
    sets = {kind: corpus(args.tool, kind) for kind in ("tricky", "corpus", "random")}
    if pathlib.Path(args.wordnet).is_dir():
        sets["wordnet"] = glosses(args.wordnet)
    subjects = [(pathlib.Path(f).name, f, reference(f))
                for f in args.folders or sorted(p.parent for p in FIXTURES.glob("*/expected.json"))]
    if args.gguf:
        subjects.append((pathlib.Path(args.gguf).name, args.gguf, gguf_reference(args.gguf)))
    good = True
    for name, path, known in subjects:
        for kind, texts in sets.items():
            good &= compare(args.tool, f"{name} {kind}", path, known, texts)
    print("equal" if good else "DIFFERENT")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
