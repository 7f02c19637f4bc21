"""One line a check, status 1 at the end if any failed; and the calls of the qlora program that the checks share."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
QLORA = pathlib.Path(os.environ.get("QLORA_BIN", ROOT / "build" / "bin" / "qlora"))


class Checks:
    def __init__(self, name: str):
        self.name, self.passed, self.failed = name, 0, 0
        if not QLORA.exists():
            sys.exit(f"[{name}] {QLORA} is missing: build first, or set QLORA_BIN")

    def expect(self, what: str, good: bool, detail: str = "") -> bool:
        self.passed += bool(good)
        self.failed += not good
        print(f"{'ok    ' if good else 'FAILED'} {self.name}: {what}{'  (' + detail + ')' if detail else ''}", flush=True)
        return bool(good)

    def expect_close(self, what: str, actual: float, expected: float, tolerance: float, relative: bool = False) -> bool:
        error = abs(actual - expected) / (abs(expected) if relative else 1.0)
        # Not "error > tolerance": that would let NaN pass.
        return self.expect(what, error <= tolerance, f"{actual:.6f}, expected {expected:.6f} within {tolerance:g}{' relative' if relative else ''}")

    def finish(self) -> None:
        print(f"{self.name}: {self.passed} passed, {self.failed} failed")
        sys.exit(1 if self.failed or not self.passed else 0)


def qlora(*arguments, timeout: float = 1800) -> subprocess.CompletedProcess:
    return subprocess.run([str(a) for a in (QLORA, *arguments)], capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL)


def must(result: subprocess.CompletedProcess) -> subprocess.CompletedProcess:
    if result.returncode != 0:
        sys.exit(f"{' '.join(result.args)} ended with {result.returncode}:\n{result.stderr[-3000:]}")
    return result


def steps_of(run_folder: pathlib.Path) -> list:
    """The step records of log.jsonl."""
    records = [json.loads(line) for line in (run_folder / "log.jsonl").read_text().splitlines()]
    return [r for r in records if r.get("kind") == "step"]


def train(config: dict, scratch: pathlib.Path, name: str) -> list:
    """Runs `qlora train` and returns its step records; the run folder is scratch/name."""
    path = scratch / f"{name}.json"
    path.write_text(json.dumps({**config, "output_dir": str(scratch / name)}, indent=1))
    must(qlora("train", path))
    return steps_of(scratch / name)


def perplexity(*arguments) -> dict:
    return json.loads(must(qlora("perplexity", *arguments, "--json")).stdout)


def scratch_folder(keep: bool = False) -> pathlib.Path:
    """Deleted at exit unless kept; not under /tmp of a small container: runs of real models take some hundred MB."""
    import atexit

    base = ROOT / ".cache" / "interop"
    base.mkdir(parents=True, exist_ok=True)
    folder = pathlib.Path(tempfile.mkdtemp(dir=base))
    if keep:
        print(f"      files stay in {folder}")
    else:
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
