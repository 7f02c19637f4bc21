#!/usr/bin/env python3
"""Makes the quickstart's instruction data from WordNet (Debian's wordnet-base), the same on every machine.

    make_wordnet_dataset.py OUTPUT_DIR [--train 4000] [--heldout 128] [--seed 1] [--wordnet DIR]

Writes OUTPUT_DIR/train.jsonl and OUTPUT_DIR/heldout.jsonl with rows
    {"instruction": "Define the noun \"memorial\".", "output": "a recognition of meritorious service"}
One row per word that is in common use: its most frequent sense, without the usage examples. A word that is in
one file is not in the other. The order comes from SHA-256 of seed and word, so it depends on no
version of Python. WordNet's licence is copied beside the data.
"""
import argparse
import hashlib
import json
import os
import re
import shutil
import sys

PARTS = (("noun", "noun"), ("verb", "verb"), ("adjective", "adj"))
PLAIN_WORD = re.compile(r"[a-z]{4,14}")  # no names, phrases, abbreviations
UNSUITABLE = re.compile(r"obscene|vulgar|offensive|disparaging|slang|slur|sexual")
LICENCE = "/usr/share/doc/wordnet-base/copyright"


def first_senses(path):
    """word -> offset of its most frequent sense, for words that WordNet's tagged corpora contain.

    A line of index.*: lemma pos synset_count P, then P pointers, sense_count tagged_count offsets…
    """
    senses = {}
    with open(path, encoding="latin-1") as lines:
        for line in lines:
            if line.startswith("  "):  # the licence at the top
                continue
            fields = line.split()
            pointers = int(fields[3])
            if PLAIN_WORD.fullmatch(fields[0]) and int(fields[5 + pointers]) > 0:
                senses[fields[0]] = fields[6 + pointers]
    return senses


def definitions(path):
    """offset -> definition. data.* line: offset … | definition; "example"; "example" """
    found = {}
    with open(path, encoding="latin-1") as lines:
        for line in lines:
            if line.startswith("  "):
                continue
            head, gloss = line.split(" | ", 1)
            definition = gloss.split('; "')[0].strip()
            if not definition.startswith('"'):
                found[head.split(" ", 1)[0]] = definition
    return found


def all_rows(wordnet):
    """One row per word; a word that is noun and verb keeps the first of PARTS that has it."""
    rows = {}
    for part, suffix in PARTS:
        meaning = definitions(os.path.join(wordnet, "data." + suffix))
        for word, offset in first_senses(os.path.join(wordnet, "index." + suffix)).items():
            text = meaning.get(offset, "")
            if word not in rows and 15 <= len(text) <= 160 and word not in text and not UNSUITABLE.search(text):
                rows[word] = {"instruction": f'Define the {part} "{word}".', "output": text}
    return rows


def write(path, rows):
    with open(path + ".partial", "w", encoding="utf-8") as out:
        for row in rows:
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
    os.replace(path + ".partial", path)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("output_dir")
    arguments.add_argument("--train", type=int, default=4000)
    arguments.add_argument("--heldout", type=int, default=128)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--wordnet", default="/usr/share/wordnet")
    options = arguments.parse_args()

    try:
        rows = all_rows(options.wordnet)
    except FileNotFoundError as error:
        sys.exit(f"[wordnet] {error.filename} is missing; install the Debian package wordnet-base")
    wanted = options.train + options.heldout
    if len(rows) < wanted:
        sys.exit(f"[wordnet] {len(rows)} usable words, {wanted} wanted; ask for fewer rows")
    order = sorted(rows, key=lambda word: hashlib.sha256(f"{options.seed} {word}".encode()).digest())
    os.makedirs(options.output_dir, exist_ok=True)
    write(os.path.join(options.output_dir, "heldout.jsonl"), (rows[w] for w in order[: options.heldout]))
    write(os.path.join(options.output_dir, "train.jsonl"), (rows[w] for w in order[options.heldout : wanted]))
    if os.path.exists(LICENCE):
        shutil.copyfile(LICENCE, os.path.join(options.output_dir, "LICENSE.wordnet"))
    print(f"{options.train} training and {options.heldout} held-out rows out of {len(rows)} words in {options.output_dir}")


if __name__ == "__main__":
    main()
