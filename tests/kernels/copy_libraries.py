#!/usr/bin/env python3
"""Copies the shared libraries that PROGRAM needs, but for those of the C and C++ languages, beside it: copy_libraries.py PROGRAM."""
import pathlib
import shutil
import subprocess
import sys

# A driver of this machine must not travel to the next one, and an older C library there is no obstacle.
OF_THE_SYSTEM = ("linux-vdso.", "ld-linux", "libc.", "libm.", "libpthread.", "libdl.", "librt.", "libstdc++.", "libgcc_s.",
                 "libcuda.")


def needed_libraries(program):
    """name -> path here, of all that the program needs, directly or through others."""
    lines = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout.splitlines()
    return {line.split()[0]: line.split()[2] for line in lines if "=>" in line}


def main():
    program = pathlib.Path(sys.argv[1])
    for name, path in needed_libraries(program).items():
        if name.startswith(OF_THE_SYSTEM) or pathlib.Path(path).resolve().parent == program.resolve().parent:
            continue
        if not pathlib.Path(path).exists():
            sys.exit(f"{program} needs {name}, which is not here")
        shutil.copy(path, program.parent / name)


main()
