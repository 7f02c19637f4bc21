"""Writes data/normalizer_tables.inc: what the library `tokenizers` knows beside data/unicode_tables.inc.

Usage: python make_normalizer_tables.py > ../../data/normalizer_tables.inc   (Python 3.11: Unicode 14)
"""
import unicodedata as u

import tokenizers
from tokenizers import normalizers, pre_tokenizers

from code_tables import ranges, rows

CODES = [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]


def main():
    print("// Made by tests/interop/make_normalizer_tables.py")
    print(f"// from tokenizers {tokenizers.__version__} and Unicode {u.unidata_version}. Do not edit.")

    nfkd, nfd = normalizers.NFKD().normalize_str, normalizers.NFD().normalize_str
    texts, entries = [], []
    for c in CODES:
        whole = nfkd(chr(c))
        if whole == nfd(chr(c)):
            continue
        codes = [ord(x) for x in whole]
        at = next((i for i in range(len(texts) - len(codes) + 1) if texts[i : i + len(codes)] == codes), None)
        if at is None:
            at = len(texts)
            texts += codes
        entries.append((c, at, len(codes)))
    print("\n// What compatibility decompositions (NFKD) become, one behind the other.")
    print("inline constexpr char32_t kCompatibilityText[] = {")
    rows([f"0x{c:x}" for c in texts], 11)
    print("};")
    print("\n// Character, place and length in kCompatibilityText.")
    print("inline constexpr CompatibilityEntry kCompatibility[] = {")
    rows([f"{{0x{c:x}, {at}, {n}}}" for c, at, n in entries], 5)
    print("};")

    lower = normalizers.Lowercase().normalize_str
    newer = [(c, ord(lower(chr(c)))) for c in CODES if lower(chr(c)) != chr(c).lower()]
    print("\n// Lower case that the reference knows and Unicode 14 does not.")
    print("inline constexpr CodePair kNewerLower[] = {")
    rows([f"{{0x{a:x}, 0x{b:x}, 0}}" for a, b in newer], 5)
    print("};")

    pieces = lambda pre, c: len(pre.pre_tokenize_str("a" + chr(c) + "a"))
    ranges("kWord", "CodeRange", "Characters of words to the pre-tokenizer Whitespace.",
           [c for c in CODES if pieces(pre_tokenizers.Whitespace(), c) == 1])
    ranges("kPunctuation", "CodeRange", "Characters that the pre-tokenizer Punctuation cuts out.",
           [c for c in CODES if pieces(pre_tokenizers.Punctuation(), c) == 3])


main()
