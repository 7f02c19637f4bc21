#!/usr/bin/env python3
"""Makes a .cu file readable for an ordinary C++ compiler: rewrite_launches.py IN.cu OUT.cpp.

kernel<<<grid, block, shared, stream>>>(arguments) becomes a call of launch_blocks (source/device_source.h), and a
dynamic shared array becomes a pointer. Nothing else is touched, and lines keep their numbers.
"""
import re
import sys

CALLEE = re.compile(r"[\w:]+(?:<[^;{}]*>)?\s*$")
DYNAMIC_SHARED = re.compile(r"extern\s+__shared__\s+(?:__align__\(\d+\)\s+)?([\w:]+(?:\s+\w+)?)\s+(\w+)\s*\[\s*\]\s*;")


def closing(text, at, opening="(", close=")"):
    """Index of the bracket that closes the one at `at`."""
    depth = 0
    for i in range(at, len(text)):
        depth += (text[i] == opening) - (text[i] == close)
        if depth == 0:
            return i
    raise SystemExit(f"a bracket at offset {at} is never closed")


def rewrite(text):
    text = DYNAMIC_SHARED.sub(r"\1* const \2 = ::qlora::emulation::source::dynamic_shared<\1>();", text)
    while "<<<" in text:
        begin = text.index("<<<")
        end = text.index(">>>", begin)
        callee = CALLEE.search(text[:begin])
        if callee is None:
            raise SystemExit(f"no kernel's name before '{text[begin:begin + 40]}'")
        parenthesis = text.index("(", end)
        behind = closing(text, parenthesis) + 1
        call = callee[0].strip() + text[parenthesis:behind]
        configuration = text[begin + 3:end]
        launch = f"::qlora::emulation::source::launch_blocks([&] {{ {call}; }}, {configuration})"
        text = text[:callee.start()] + launch + text[behind:]
    return text


def main():
    source, output = sys.argv[1:]
    with open(source, encoding="utf-8") as file:
        text = rewrite(file.read())
    with open(output, "w", encoding="utf-8") as file:
        file.write(f'#line 1 "{source}"\n{text}')


main()
