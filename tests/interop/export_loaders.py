"""What `qlora export` writes loads in the real clients and gives the logits of its own dequantized weights.

    .venv-peers/bin/python tests/interop/export_loaders.py [--model tiny|smollm2] [--clients NAMES] [--only CASES] [--keep]
    .venv-peers/bin/python tests/interop/export_loaders.py --folder EXPORT [--clients NAMES]       somebody's export

For each case: export; decode the files in numpy (export_decoder.py); run the decoded weights through transformers in FP32;
load the files in transformers, GPTQModel, AutoAWQ and llama.cpp, each in a process of its own; compare the logits. Then the
same with one planted corruption, which has to miss the bound by a factor of 5 at least. The program's own loader is compared
by its perplexity. Clients come from .venv-export and .venv-autoawq (scripts/setup_export_peers.sh); a client whose
environment is missing is skipped by name. Ends with 1 where anything failed, with 77 where every client was skipped.
"""

import argparse
import json
import math
import os
import pathlib
import subprocess
import sys
import threading
import time

import quiet  # noqa: F401  (before transformers)
import checks
import export_cases
import export_decoder
import numpy as np
import torch
from safetensors.numpy import save_file

ROOT = checks.ROOT
VENV_OF = {"transformers": ".venv-export", "gptqmodel": ".venv-export", "llamacpp": ".venv-export", "autoawq": ".venv-autoawq"}
ALL_SKIPPED = 77  # what ctest counts as skipped
CORRUPTION_FACTOR = 5
CLIENT_TIMEOUT_SECONDS = 2400  # of all jobs of one client; the first may compile a kernel

# Largest difference of a logit. transformers computes in FP32 as the reference does: what is allowed is the order of its sums.
# The others round more (docs/interop.md has what good files gave): a bound for each client, or for a client and a case or model.
WEIGHT_ONLY_BOUND = 0.01
BOUNDS = {
    "transformers": WEIGHT_ONLY_BOUND,
    ("transformers", "activations"): 0.05,  # W8A8, FP8: a sum on the other side of a rounding boundary
    "gptqmodel": 0.1,  # FP16
    "autoawq": 0.25,  # the IPEX kernel
    "llamacpp": 0.5,  # rounds activations to 8 bits
    ("llamacpp", "gguf-f16"): 0.03,
    # GPTQModel's kernels, which transformers calls, dequantize to FP16: no matter in 2 blocks, some hundredths after 30.
    ("transformers", "awq-4", "smollm2"): 0.2,
    ("transformers", "gptq-4-asym", "smollm2"): 0.2,
    ("gptqmodel", "smollm2"): 1.0,
    ("autoawq", "smollm2"): 2.0,
    ("llamacpp", "smollm2"): 6.0,  # 8-bit activations of a model with a few huge ones
    ("llamacpp", "gguf-f16", "smollm2"): 0.3,
}
# Perplexity of the decoded weights over that of the model before: a format that is read back as something else is far above.
PERPLEXITY_RATIO = {"tiny": {16: 1.002, 8: 1.005, 4: 1.02, 3: 1.03, 2: 1.1}, "smollm2": {16: 1.005, 8: 1.05, 4: 3.0}}


def bound_of(client: str, case, model: str) -> float:
    """The most special one that there is."""
    keys = [(client, case.name, model), (client, model), (client, case.name)] + [(client, "activations")] * case.rounds_activations + [client]
    return next(BOUNDS[key] for key in keys if key in BOUNDS)


def python_of(client: str) -> pathlib.Path:
    return ROOT / VENV_OF[client] / "bin" / "python"


def is_installed(client: str) -> bool:
    return (ROOT / VENV_OF[client] / ".complete").exists()


class Subject:
    """A model to export: where it is, what it is calibrated and measured on."""

    def __init__(self, kind: str, scratch: pathlib.Path):
        from transformers import AutoTokenizer

        self.kind = kind
        if kind == "tiny":
            import tiny_llama

            self.folder = scratch / "tiny"
            tiny_llama.make(self.folder)
            self.calibration, length, rows = self.folder / "calib.jsonl", 96, 4
            self.text = "\n".join(json.loads(line)["text"] for line in (self.folder / "heldout.jsonl").read_text().splitlines())
        else:
            self.folder = ROOT / "models" / "smollm2-135m-hf"
            if not (self.folder / "model.safetensors").exists():
                sys.exit("[export_loaders] models/smollm2-135m-hf is missing: run scripts/setup_peers.sh --model")
            self.calibration, length, rows = scratch / "calib.jsonl", 64, 2
            paragraphs = [p.strip().replace("\n", " ") for p in (ROOT / "docs" / "training.md").read_text().split("\n\n")]
            self.calibration.write_text("".join(json.dumps({"text": p}) + "\n" for p in paragraphs if len(p) > 200))
            self.text = (ROOT / "LICENSE").read_text()[8000:]
        self.probe = "The sailor weighs 12 lanterns, isn't that 3.5 more?\n  Größe: 世界 🙂"
        tokenizer = AutoTokenizer.from_pretrained(self.folder)
        self.probe_ids = tokenizer(self.probe, add_special_tokens=False)["input_ids"]
        ids = tokenizer(self.text, add_special_tokens=False)["input_ids"]
        self.tokens = np.array(ids[: rows * length], dtype=np.int32).reshape(rows, length)
        self.tokens_file = scratch / f"{kind}.tokens.npy"
        np.save(self.tokens_file, self.tokens)
        # Rounded activations are chaotic: over 126 predictions the reference itself moves by 3% with its number of threads.
        pages = "\n".join((ROOT / name).read_text() for name in ("LICENSE", "docs/data.md", "docs/export.md"))
        self.many = np.array(tokenizer(pages, add_special_tokens=False)["input_ids"][: 60 * 64], dtype=np.int32).reshape(60, 64)
        self.tokens_safetensors = scratch / f"{kind}.tokens.safetensors"
        save_file({"heldout": self.tokens, "many": self.many}, self.tokens_safetensors)


class Job:
    """One checkpoint in one client."""

    def __init__(self, case, client: str, path: pathlib.Path, is_corrupted: bool):
        self.case, self.client, self.path, self.is_corrupted = case, client, path, is_corrupted
        self.name = case.name + (" corrupted" if is_corrupted else "")
        self.answer, self.logits = None, None


def run_client(client: str, jobs: list, subject: Subject, scratch: pathlib.Path, judged) -> None:
    """All jobs of a client in one process, judged(job) as soon as each is done; where the process dies, the next job starts another."""
    log = scratch / f"{client}.log"
    waiting = list(jobs)
    while waiting:
        work, by_name = [], {j.name: j for j in waiting}
        for i, job in enumerate(waiting):
            job.logits_file = scratch / f"{client}.{i}.npy"
            work.append({"name": job.name, "path": str(job.path), "tokens": str(subject.tokens_file), "logits": str(job.logits_file), "text": subject.probe})
        listing = scratch / f"{client}.jobs.json"
        listing.write_text(json.dumps(work))
        command = [python_of(client), ROOT / "tests" / "interop" / "export_clients.py", client, listing]
        with open(log, "ab") as stderr:
            process = subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, stderr=stderr, stdin=subprocess.DEVNULL, text=True)
            watchdog = threading.Timer(CLIENT_TIMEOUT_SECONDS, process.kill)
            watchdog.start()
            for line in process.stdout:
                answer = json.loads(line)
                job = by_name[answer["name"]]
                job.answer = answer
                if answer["ok"]:
                    job.logits = np.load(job.logits_file)
                    job.logits_file.unlink()
                judged(job)
                job.logits = None
            watchdog.cancel()
            ending = f"ended with {process.wait()}"
        waiting = [j for j in waiting if j.answer is None]
        if waiting:  # the first of them brought the process down
            waiting[0].answer = {"ok": False, "error": f"the process {ending}, at most {CLIENT_TIMEOUT_SECONDS} s; log: {log.name}"}
            judged(waiting.pop(0))


def largest_difference(logits: np.ndarray, reference: np.ndarray) -> float:
    """NaN and infinities are infinitely far away."""
    if logits.shape != reference.shape or not np.isfinite(logits).all():
        return math.inf
    return float(np.abs(logits - reference).max())


def relative_rms(logits: np.ndarray, reference: np.ndarray) -> float:
    centred = reference - reference.mean(axis=-1, keepdims=True)
    return float(np.sqrt(((logits - reference) ** 2).mean() / (centred**2).mean())) if logits.shape == reference.shape else math.inf


def judge(check: checks.Checks, job: Job, reference: np.ndarray, subject: Subject, table: list) -> None:
    bound = bound_of(job.client, job.case, subject.kind)
    what = f"{job.case.name} in {job.client}"
    if not job.answer["ok"]:
        # A corruption that the client refuses is found, too, but the proof by numbers is asked for.
        check.expect(f"{what}{' (corrupted)' if job.is_corrupted else ''} loads", False, job.answer["error"])
        table.append((job, math.nan, math.nan, bound, "DOES NOT LOAD"))
        return
    worst = largest_difference(job.logits, reference)
    rms = relative_rms(job.logits, reference)
    if job.is_corrupted:
        needed = CORRUPTION_FACTOR * bound
        good = check.expect(f"{what}: the planted corruption ({job.case.corruption}) shows", worst >= needed, f"{worst:.4g}, at least {needed:.4g} needed")
    else:
        good = check.expect(f"{what}: logits of its own weights", worst <= bound, f"max {worst:.2e}, rms {rms:.1e}, bound {bound:g}, {' '.join(job.answer['kinds'])}")
        if job.answer["text_ids"] or job.client == "autoawq":
            good &= check.expect(f"{what}: token ids", job.answer["text_ids"] == subject.probe_ids)
    table.append((job, worst, rms, bound, "ok" if good else "FAILED"))


def print_table(table: list) -> None:
    print(f"\n{'case':22} {'client':13} {'max |d logit|':>14} {'rms':>9} {'bound':>8} {'corrupted':>10} {'x bound':>8}  result")
    corrupted = {(job.case.name, job.client): (worst, result) for job, worst, _, _, result in table if job.is_corrupted}
    for job, worst, rms, bound, result in table:
        if job.is_corrupted:
            continue
        planted, planted_result = corrupted.get((job.case.name, job.client), (math.nan, "ok"))
        both = result if result != "ok" else planted_result
        print(f"{job.case.name:22} {job.client:13} {worst:14.2e} {rms:9.1e} {bound:8.3g} {planted:10.3g} {planted / bound:8.1f}  {both}")


def export(check: checks.Checks, case, subject: Subject, scratch: pathlib.Path) -> pathlib.Path | None:
    target = scratch / "exports" / case.name
    arguments = case.arguments_for(subject.kind)
    command = ["export", "--model-path", subject.folder, "--output-dir", target, *arguments]
    if not {"none", "rtn"} & set(arguments):
        command += ["--dataset-name", subject.calibration, "--calibration-samples", "32", "--max-seq-length", "128"]
    begin = time.monotonic()
    result = checks.qlora(*command, "--set", "export.evaluate=false", "--threads", THREADS)
    written = result.returncode == 0 and target.is_dir()
    check.expect(f"{case.name}: qlora export", written, f"{time.monotonic() - begin:.1f} s" if written else f"status {result.returncode}: {result.stderr.strip()[-400:]}")
    return target if written else None


THREADS = os.environ.setdefault("QLORA_INTEROP_THREADS", "1")


def check_program(check: checks.Checks, case, folder: pathlib.Path, loss: float, subject: Subject, tokens: str) -> None:
    """The program's own loader sees the same weights: its perplexity is that of the decoded ones."""
    path = export_decoder.gguf_of(folder) or folder
    result = checks.qlora("perplexity", "--model-path", path, "--tokens", f"{subject.tokens_safetensors}:{tokens}", "--compute-dtype", "fp32", "--threads", THREADS, "--json")
    if not check.expect(f"{case.name}: qlora perplexity reads it", result.returncode == 0, result.stderr.strip()[-300:] if result.returncode else ""):
        return
    # With rounded activations one on the other side of a boundary moves those of all later blocks. Of a GGUF the program
    # holds the dequantized weights in BF16, as it does to train on them.
    tolerance = {"tiny": 1e-3, "smollm2": 0.02}[subject.kind] if case.rounds_activations else 0.01 if "gguf" in case.name else 2e-4
    check.expect_close(f"{case.name}: perplexity in qlora", json.loads(result.stdout)["perplexity"], math.exp(loss), tolerance, relative=True)


def check_decoder(check: checks.Checks) -> None:
    """The reference decoder gives what gptqmodel, AutoAWQ, llm-compressor, bitsandbytes and llama.cpp meant by their own files."""
    files = sorted((ROOT / "tests" / "fixtures" / "export").glob("*.safetensors"))
    decoded = 0
    for file in files:
        tensors, metadata = export_decoder.read_with_metadata(file)
        if "dequant" not in tensors:
            continue
        expected = tensors.pop("dequant")
        difference = np.abs(export_decoder.decode_fixture(tensors, metadata)[: len(expected)] - expected).max()
        decoded += 1
        if difference != 0:
            check.expect(f"decoder: {file.name}", False, f"differs by {difference:.3g}")
    check.expect("decoder: every fixture decodes to its dequant, bit for bit", decoded >= 20, f"{decoded} files")


def run_cases(check: checks.Checks, cases: list, folders: dict, clients: list, subject: Subject, base_loss: float, scratch: pathlib.Path, with_program: bool) -> None:
    jobs, references, table = [], {}, []
    for case in cases:
        folder = folders[case.name]
        decoded = export_decoder.decode(folder)
        reference = export_decoder.reference_model(decoded)
        references[case.name] = export_decoder.logits_of(reference, subject.tokens)
        loss = export_decoder.mean_loss(references[case.name], subject.tokens)
        if case.rounds_activations:
            check.expect(f"{case.name}: inputs are rounded", len(decoded.activations) == len(decoded.quantized) > 0, f"{len(decoded.activations)} matrices")
        ratio = math.exp(loss - base_loss)
        allowed = PERPLEXITY_RATIO[subject.kind][case.bits]
        check.expect(f"{case.name}: decoded perplexity over the model's", ratio <= allowed, f"{ratio:.4f}, at most {allowed}")
        check.expect(f"{case.name}: matrices in {case.bits} bits", bool(decoded.quantized) == (case.bits < 16), f"{len(decoded.quantized)}, {decoded.method}")
        if with_program:
            if case.rounds_activations and subject.kind == "smollm2":
                many = export_decoder.mean_loss(export_decoder.logits_of(reference, subject.many), subject.many)
                check_program(check, case, folder, many, subject, "many")
            else:
                check_program(check, case, folder, loss, subject, "heldout")
        corrupted = export_cases.corrupted_copy(case, folder, scratch / "corrupted" / case.name) if case.corrupt else None
        for client in clients:
            if client in case.clients:
                jobs += [Job(case, client, folder, False)] + ([Job(case, client, corrupted, True)] if corrupted else [])
    for client in clients:
        begin = time.monotonic()
        mine = [j for j in jobs if j.client == client]
        run_client(client, mine, subject, scratch, lambda job: judge(check, job, references[job.case.name], subject, table))
        print(f"      {client}: {len(mine)} loads in {time.monotonic() - begin:.0f} s", flush=True)
    print_table(table)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("tiny", "smollm2"), default="tiny")
    parser.add_argument("--clients", default=",".join(VENV_OF))
    parser.add_argument("--only", default="", help="cases whose name contains one of these, comma-separated")
    parser.add_argument("--folder", type=pathlib.Path, help="an export that is there; --model names the model whose tokenizer it has")
    parser.add_argument("--keep", action="store_true", help="leave the files in .cache/interop")
    return parser.parse_args()


def main() -> None:
    options = parse_arguments()
    asked = options.clients.split(",")
    clients = [c for c in asked if is_installed(c)]
    for client in asked:
        if client not in VENV_OF:
            sys.exit(f"[export_loaders] {client} is no client, allowed: {', '.join(VENV_OF)}")
        if client not in clients:
            print(f"skipped {client}: {VENV_OF[client]} is missing, scripts/setup_export_peers.sh makes it")
    if not clients:
        sys.exit(ALL_SKIPPED)
    torch.set_num_threads(int(THREADS))
    check = checks.Checks("export_loaders")
    scratch = checks.scratch_folder(keep=options.keep)
    check_decoder(check)
    subject = Subject(options.model, scratch)
    wanted = [o for o in options.only.split(",") if o]
    cases = [c for c in export_cases.CASES if (options.model == "tiny" or c.for_smollm2) and (not wanted or any(w in c.name for w in wanted))]
    base = export_decoder.decode(subject.folder)
    base_loss = export_decoder.mean_loss(export_decoder.logits_of(export_decoder.reference_model(base), subject.tokens), subject.tokens)
    print(f"      {options.model}: perplexity {math.exp(base_loss):.3f} on {subject.tokens.shape[0]} rows of {subject.tokens.shape[1]} tokens")
    if options.folder:
        cases = [export_cases.case_of_folder(options.folder)]
        folders = {cases[0].name: options.folder}
    else:
        cases = [c for c in cases if set(c.clients) & set(clients)]
        folders = {c.name: export(check, c, subject, scratch) for c in cases}
        cases = [c for c in cases if folders[c.name]]
    run_cases(check, cases, folders, clients, subject, base_loss, scratch, with_program=not options.folder)
    check.finish()


if __name__ == "__main__":
    main()
