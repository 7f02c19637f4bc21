"""What the writers of data/*.inc share: tables of characters as C++ arrays, on stdout."""


def rows(texts, per_line):
    for i in range(0, len(texts), per_line):
        print("    " + " ".join(t + "," for t in texts[i : i + per_line]))


def runs(codes):
    """Characters as [first, last] of each run without a gap."""
    out = []
    for c in sorted(codes):
        if out and out[-1][1] == c - 1:
            out[-1][1] = c
        else:
            out.append([c, c])
    return out


def ranges(name, element, comment, codes):
    """Runs of characters as an array of the C++ type `element`."""
    print(f"\n// {comment}")
    print(f"inline constexpr {element} {name}[] = {{")
    rows([f"{{0x{a:x}, 0x{b:x}}}" for a, b in runs(codes)], 5)
    print("};")
