"""Runs clang-tidy on the project's .cpp files, some at a time, but for those that passed as they stand.

usage: tidy.py BUILD_DIR JOBS [EXTRA_ARG]...

A file has passed as it stands where its text, what it includes, both commands, the .clang-tidy files and the linter's version
are those of a run without findings: their hash is kept in BUILD_DIR/tidy. The build has to be complete, for ninja knows from
it what a file includes. Prints the findings, and exits with 1 where there are any.
"""

import concurrent.futures
import functools
import hashlib
import json
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
BIN = ROOT / ".venv" / "bin"
LINTED = re.compile(r"(core|io|quant|lora|model|data|eval|trainer|exporter|configs|cli|tests)/.*\.cpp")
SETTINGS = (".clang-tidy", "tests/.clang-tidy", "scripts/requirements.txt", "scripts/requirements-tidy.txt", "scripts/tidy.py")


@functools.cache
def digest(path):
    """Of what a file holds; of a file outside the project its name and size, for packages do not change in place."""
    if path.is_relative_to(ROOT) and not path.is_relative_to(ROOT / ".venv"):
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return f"{path} {path.stat().st_size}"


def includes_by_object(build):
    """Object of the build -> what it was made from, as ninja noted it."""
    listing = subprocess.run([BIN / "ninja", "-C", build, "-t", "deps"], capture_output=True, text=True, check=True).stdout
    includes = {}
    for block in listing.split("\n\n"):
        head, *lines = block.splitlines() or [""]
        name, _, state = head.partition(": #deps ")
        if state:
            includes[name] = sorted((build / line.strip()).resolve() for line in lines)
    return includes


def linted_files(build, extra):
    """Source, relative to the project -> hash of all that its findings depend on."""
    includes = includes_by_object(build)
    settings = [(ROOT / name).read_text(encoding="utf-8") for name in SETTINGS]
    keys = {}
    for entry in json.loads((build / "compile_commands.json").read_text(encoding="utf-8")):
        source = pathlib.Path(entry["file"])
        if not source.is_relative_to(ROOT) or not LINTED.fullmatch(str(source.relative_to(ROOT))):
            continue
        target = entry["output"].removeprefix(f"{build}/")
        if target not in includes:
            sys.exit(f"[tidy] {target} has not been built, so what it includes is not known; run scripts/build.sh")
        parts = [*settings, *extra, entry["command"], *map(digest, includes[target])]
        keys.setdefault(source.relative_to(ROOT), hashlib.sha256("\0".join(parts).encode()).hexdigest())
    return keys


def main():
    build, jobs, extra = pathlib.Path(sys.argv[1]).resolve(), int(sys.argv[2]), sys.argv[3:]
    stamps = build / "tidy"
    stamps.mkdir(exist_ok=True)

    def stamp_of(source):
        return stamps / f"{str(source).replace('/', '__')}.sha256"

    def lint(source):
        command = [BIN / "clang-tidy", "-quiet", "-p", build, *(f"-extra-arg={argument}" for argument in extra), ROOT / source]
        return subprocess.run(command, capture_output=True, text=True)

    keys = linted_files(build, extra)
    left = [s for s, key in keys.items() if not stamp_of(s).exists() or stamp_of(s).read_text(encoding="utf-8") != key]
    print(f"   {len(keys)} files, {len(keys) - len(left)} of them passed as they stand", flush=True)
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        for count, (source, done) in enumerate(zip(left, pool.map(lint, left)), start=1):
            if done.returncode == 0:
                stamp_of(source).write_text(keys[source], encoding="utf-8")
            else:
                failed += 1
                print(f"{done.stdout}{done.stderr}", flush=True)
            if count % 25 == 0:
                print(f"   {count} of {len(left)}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
