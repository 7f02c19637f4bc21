"""Runs one training program and measures it from outside, the same way for both sides of the comparison."""

import dataclasses
import json
import os
import pathlib
import subprocess
import time

POLL_SECONDS = 0.005


@dataclasses.dataclass
class Run:
    """What one process did. CPU seconds are those of the whole process between two step records."""

    losses: list
    step_cpu_seconds: list  # of steps 2, 3, ...
    step_wall_seconds: list  # likewise
    tokens: list
    start_seconds: float  # from process start to the start of the first step
    first_step_seconds: float  # from process start to the end of the first step
    peak_rss_bytes: int
    total_cpu_seconds: float
    load_before: float  # 1-minute load average: above 0.5 something else was running
    end: dict  # the last record that is not a step


def process_cpu_seconds(pid: int) -> float:
    """CPU time of another process in nanosecond steps: its Linux CPU clock id is made from the pid."""
    return time.clock_gettime(((~pid) << 3) | 2)


def complete_lines(path: pathlib.Path, offset: int):
    """Whole lines behind offset, and the offset behind them; a line still being written stays for the next call."""
    if not path.exists():
        return [], offset
    with open(path, "rb") as file:
        file.seek(offset)
        data = file.read()
    end = data.rfind(b"\n") + 1
    return data[:end].splitlines(), offset + end


def step_record(line: bytes):
    """(is a step, record) of one line of JSON; a line that is no JSON object is not a record."""
    try:
        record = json.loads(line)
    except ValueError:
        return False, None
    if not isinstance(record, dict):
        return False, None
    return (record.get("kind") or record.get("event")) == "step" and "loss" in record, record


def run(command: list, log: pathlib.Path, output: pathlib.Path, tokens_per_step: int, threads: int) -> Run:
    """Starts the command with stdout in `output`; its step records appear in `log` (which may be the same file)."""
    output.parent.mkdir(parents=True, exist_ok=True)
    for path in {log, output}:
        path.unlink(missing_ok=True)
    load = os.getloadavg()[0]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    with open(output, "wb") as out, open(output.with_suffix(".err"), "wb") as err:
        started = time.monotonic()
        process = subprocess.Popen(command, stdout=out, stderr=err, stdin=subprocess.DEVNULL, env=environment)
    steps, marks, end, offset, done = [], [], {}, 0, False
    status, usage = 0, None
    while True:
        if not done:
            # The zombie keeps its CPU clock: take the time before the status is collected.
            now, cpu = time.monotonic(), process_cpu_seconds(process.pid)
        lines, offset = complete_lines(log, offset)
        for line in lines:
            is_step, record = step_record(line)
            if is_step:
                steps.append(record)
                marks.append((now, cpu))
            elif record is not None:
                end = record
        if done:
            break
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        done = pid != 0  # then read the log once more
        if not done:
            time.sleep(POLL_SECONDS)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0 or not steps:
        tail = output.with_suffix(".err").read_text(errors="replace")[-2000:]
        raise SystemExit(f"[bench] {' '.join(map(str, command))} ended with {process.returncode} after {len(steps)} steps:\n{tail}")
    return Run(
        losses=[s["loss"] for s in steps],
        step_cpu_seconds=[b[1] - a[1] for a, b in zip(marks, marks[1:])],
        step_wall_seconds=[b[0] - a[0] for a, b in zip(marks, marks[1:])],
        tokens=[s.get("tokens", tokens_per_step) for s in steps],
        start_seconds=marks[0][0] - started - steps[0].get("seconds", 0.0),
        first_step_seconds=marks[0][0] - started,
        peak_rss_bytes=usage.ru_maxrss * 1024,
        total_cpu_seconds=usage.ru_utime + usage.ru_stime,
        load_before=load,
        end=end,
    )
