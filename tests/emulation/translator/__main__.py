"""Translates the PTX that nvcc embedded in OBJECT to C++: python3 -m translator OBJECT OUT.cpp [CAPABILITY].

Fails with one line for everything that it does not know: FILE:LINE: not known: WHAT. Lines are those of the PTX,
which --ptx FILE writes.
"""
import argparse
import pathlib
import sys

from .emit import emit_module
from .fatbin import FatbinError, embedded_ptx
from .ptx_module import Refusals, Unknown, parse_module


def translate(ptx, capability, name):
    """C++ text, or SystemExit with everything that is not known."""
    refusals = Refusals()
    try:
        module = parse_module(ptx.decode(), refusals)
        text = emit_module(module, ptx, capability, refusals)
    except (Unknown, UnicodeDecodeError) as unknown:
        refusals.add(str(unknown), 0)
    if refusals.found:
        sys.exit("\n".join(f"{name}:{line}: not known: {what}" for what, line in refusals.found.items()))
    return text


def main():
    parser = argparse.ArgumentParser(prog="translator", description=__doc__)
    parser.add_argument("source", help="an object file of nvcc, or PTX text (*.ptx)")
    parser.add_argument("output")
    parser.add_argument("--ptx", help="also write the PTX here, so that messages' lines can be looked up")
    arguments = parser.parse_args()
    try:
        if arguments.source.endswith(".ptx"):
            found = [(80, pathlib.Path(arguments.source).read_bytes())]
        else:
            found = embedded_ptx(arguments.source)
    except (FatbinError, OSError) as error:
        sys.exit(f"{arguments.source}: {error}")
    if not found:
        sys.exit(f"{arguments.source}: no PTX in it")
    if arguments.ptx:
        pathlib.Path(arguments.ptx).write_bytes(b"\n".join(ptx for _, ptx in found))
    name = arguments.ptx or arguments.source
    texts = [translate(ptx, capability, name) for capability, ptx in found]
    pathlib.Path(arguments.output).write_text("\n".join(texts))


main()
