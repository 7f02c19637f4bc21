"""Writes data/unicode_tables.inc: what the reference library `tokenizers` knows about Unicode.

Usage: python make_unicode_tables.py > ../../data/unicode_tables.inc   (Python 3.11: Unicode 14)

The reference mixes versions of Unicode: its regex engine knows 16, its digits 17, its NFC 9. The
tables are therefore asked of the library itself, so that equality needs no guess.
"""
import sys
import unicodedata as u

import tokenizers
from tokenizers import Regex, normalizers, pre_tokenizers

from code_tables import rows, runs

CODES = [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]
CATEGORIES = ("Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So").split()


def members(pattern):
    """Code points that match a pattern of one character."""
    split = pre_tokenizers.Split(Regex(pattern), "removed")
    kept = set()
    for i in range(0, len(CODES), 4096):
        for piece, _ in split.pre_tokenize_str("".join(map(chr, CODES[i : i + 4096]))):
            kept.update(map(ord, piece))
    return set(CODES) - kept


def main():
    nfc = normalizers.NFC().normalize_str
    print("// Made by tests/interop/make_unicode_tables.py")
    print(f"// from tokenizers {tokenizers.__version__} and Unicode {u.unidata_version}. Do not edit.")

    print("\n// Code points that the reference's regex engine puts into a category and Unicode 14 does not.")
    print("inline constexpr CategoryRange kNewerCategories[] = {")
    lines = []
    for category in CATEGORIES:
        known = {c for c in CODES if u.category(chr(c)) == category}
        reference = members(r"\p{%s}" % category)
        if known - reference:
            print(f"{category}: lost {[hex(c) for c in sorted(known - reference)]}", file=sys.stderr)
        lines += [f"{{0x{a:x}, 0x{b:x}, {{'{category[0]}', '{category[1]}'}}}}"
                  for a, b in runs(reference - known)]
    rows(lines, 3)
    print("};")

    digits = pre_tokenizers.Digits(individual_digits=True)
    numeric = {c for c in CODES if len(digits.pre_tokenize_str("a" + chr(c) + "a")) > 1}
    print("\n// Numeric characters of the pre-tokenizer Digits.")
    print("inline constexpr CodeRange kNumeric[] = {")
    rows([f"{{0x{a:x}, 0x{b:x}}}" for a, b in runs(numeric)], 5)
    print("};")

    marks = {}
    for c in CODES:
        k = u.combining(chr(c))
        if not k:
            continue
        # A mark takes part in the canonical order where the reference moves it, or its neighbour.
        low, high = chr(0x334), chr(0x345)  # classes 1 and 240, the lowest and the highest
        moves = lambda a, b: nfc("0" + a + b) == "0" + b + a
        if k in (1, 240) and c < 0x10000:
            marks[c] = k
        elif moves(chr(c), low) or moves(high, chr(c)):
            marks[c] = k
    print("\n// Canonical combining classes; 0 for all others.")
    print("inline constexpr ClassRange kCombiningClasses[] = {")
    lines = []
    for k in sorted(set(marks.values())):
        lines += [(a, b, k) for a, b in runs(c for c in marks if marks[c] == k)]
    rows([f"{{0x{a:x}, 0x{b:x}, {k}}}" for a, b, k in sorted(lines)], 5)
    print("};")

    decompositions, compositions = [], []
    for c in CODES:
        d = u.decomposition(chr(c))
        if not d or d.startswith("<"):
            continue
        parts = [int(p, 16) for p in d.split()]
        second = parts[1] if len(parts) == 2 else 0
        text = "".join(map(chr, parts))
        nfd = normalizers.NFD().normalize_str(chr(c))
        if nfd == chr(c):
            continue  # newer than the reference's tables
        decompositions.append((c, parts[0], second))
        if second and nfc(text) == chr(c):
            compositions.append((parts[0], second, c))
    print("\n// Canonical decompositions, one step; the second part is 0 where there is none.")
    print("inline constexpr CodePair kDecompositions[] = {")
    rows([f"{{0x{c:x}, 0x{a:x}, 0x{b:x}}}" for c, a, b in decompositions], 4)
    print("};")
    print("\n// Primary composites: first, second, composite.")
    print("inline constexpr CodePair kCompositions[] = {")
    rows([f"{{0x{a:x}, 0x{b:x}, 0x{c:x}}}" for a, b, c in sorted(compositions)], 4)
    print("};")


main()
