"""Writes data/letter_case.inc: upper, lower and title case as Python's str knows them.

Usage: python make_case_tables.py > ../../data/letter_case.inc   (Python 3.11: Unicode 14)
"""
import unicodedata as u

from code_tables import ranges, rows

CODES = [c for c in range(0x80, 0x110000) if not 0xD800 <= c <= 0xDFFF]


def simple(name, comment, mapping):
    """Runs of characters with equal distance to what they become; step 2 where every other one maps."""
    runs = []  # first, last, step, delta
    for code in sorted(mapping):
        delta = mapping[code] - code
        if runs:
            first, last, step, old = runs[-1]
            gap = code - last
            if old == delta and (gap == step or (first == last and gap in (1, 2))):
                runs[-1] = (first, code, gap, delta)
                continue
        runs.append((code, code, 1, delta))
    print(f"\n// {comment}")
    print(f"inline constexpr CaseRange {name}[] = {{")
    rows([f"{{0x{a:x}, 0x{b:x}, {s}, {d}}}" for a, b, s, d in runs], 4)
    print("};")


def special(name, comment, mapping):
    print(f"\n// {comment}")
    print(f"inline constexpr CaseSpecial {name}[] = {{")
    rows([f"{{0x{c:x}, {{{', '.join(hex(x) for x in (to + [0, 0])[:3])}}}}}" for c, to in sorted(mapping.items())], 3)
    print("};")


def main():
    print("// Made by tests/interop/make_case_tables.py")
    print(f"// from Unicode {u.unidata_version}. Characters from U+0080 on. Do not edit.")
    upper = {c: [ord(x) for x in chr(c).upper()] for c in CODES if chr(c).upper() != chr(c)}
    lower = {c: [ord(x) for x in chr(c).lower()] for c in CODES if chr(c).lower() != chr(c)}
    title = {c: [ord(x) for x in chr(c).title()] for c in CODES if chr(c).title() != chr(c).upper()}
    simple("kUpper", "To upper case, one to one.", {c: t[0] for c, t in upper.items() if len(t) == 1})
    simple("kLower", "To lower case, one to one.", {c: t[0] for c, t in lower.items() if len(t) == 1})
    special("kUpperSpecial", "To upper case, one to several.", {c: t for c, t in upper.items() if len(t) > 1})
    special("kLowerSpecial", "To lower case, one to several.", {c: t for c, t in lower.items() if len(t) > 1})
    special("kTitleSpecial", "To title case where it is not the upper case.", title)
    # Whether a sigma at the end of a word becomes final shows what Python takes for cased and for ignorable.
    final = lambda text: text.lower().endswith("\u03c2")
    cased = [c for c in CODES if final(chr(c) + "\u03a3")]
    ignorable = [c for c in CODES if final("A" + chr(c) + "\u03a3") and not final(chr(c) + "\u03a3")]
    ranges("kCased", "CaseSet", "Cased characters that are not ignorable.", cased)
    ranges("kIgnorable", "CaseSet", "Characters that case looks through.", ignorable)
    # Ignorable ones that are cased: what follows them in title case stays small.
    both = [c for c in ignorable if (chr(c) + "a").title()[-1] == "a"]
    ranges("kCasedIgnorable", "CaseSet", "Ignorable characters that are cased.", both)
    hidden = [c for c in CODES if not chr(c).isprintable()]
    ranges("kUnprintable", "CaseSet", "Characters that repr() writes as escapes.", hidden)


main()
