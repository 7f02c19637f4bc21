#!/usr/bin/env python3
"""Whether the emulated and the real selftest are the same program: compare_selftests.py EMULATED REAL.

Same PTX byte for byte, same list of tests. The real one's folder holds all that it needs beside the C and C++ libraries, is
small enough to be copied to another machine, and has nothing of libtorch or a CUDA toolkit.
"""
import pathlib
import subprocess
import sys

from translator.fatbin import embedded_ptx

MOST_BYTES = 64 * 10**6
OF_THE_SYSTEM = ("ld-linux", "libc.", "libm.", "libpthread.", "libdl.", "librt.", "libstdc++.", "libgcc_s.")


def listed_tests(program):
    return subprocess.run([program, "--gtest_list_tests"], check=True, capture_output=True, text=True).stdout


def needed_libraries(file):
    dynamic = subprocess.run(["readelf", "-d", file], check=True, capture_output=True, text=True).stdout
    return [line.split("[")[1].rstrip("]") for line in dynamic.splitlines() if "(NEEDED)" in line]


def main():
    emulated, real = map(pathlib.Path, sys.argv[1:])
    ptx = [sorted(embedded_ptx(program)) for program in (emulated, real)]
    folder = sorted(real.parent.iterdir())
    size = sum(file.stat().st_size for file in folder)
    missing = {name for file in folder for name in needed_libraries(file)
               if not name.startswith(OF_THE_SYSTEM) and not (real.parent / name).exists()}
    wrong = []
    if not ptx[0] or ptx[0] != ptx[1]:
        wrong.append(f"the PTX differs: {len(ptx[0])} and {len(ptx[1])} modules")
    if not listed_tests(emulated).strip() or listed_tests(emulated) != listed_tests(real):
        wrong.append("the lists of tests differ")
    if size >= MOST_BYTES:
        wrong.append(f"{real.parent} has {size} bytes, allowed below {MOST_BYTES}")
    if missing:
        wrong.append(f"{real.parent} lacks {', '.join(sorted(missing))}")
    if not any(name.startswith("libcudart.") for name in needed_libraries(emulated)):
        wrong.append(f"{emulated} is not linked with the emulated runtime")
    if any(name.startswith(("libcudart.", "libtorch", "libc10")) for name in needed_libraries(real)):
        wrong.append(f"{real} needs a CUDA runtime or libtorch")
    print("\n".join(wrong) if wrong else f"{len(ptx[0])} modules of PTX, {size} bytes in {real.parent}")
    sys.exit(1 if wrong else 0)


main()
