"""Loads exported checkpoints in one real client and writes its logits: a process of its own, started by export_loaders.py.

    PYTHON export_clients.py CLIENT JOBS.json        CLIENT: transformers, gptqmodel, autoawq, llamacpp

JOBS is a list of {"name", "path", "tokens": FILE.npy [B, T], "logits": FILE.npy to write, "text" for the tokenizer}. One line of
JSON a job on stdout as soon as it is done: {"name", "ok", "kinds", "text_ids", "seconds"} or {"name", "ok": false, "error"}.
Runs on the CPU in .venv-export and .venv-autoawq alike (transformers 5.23 and 4.51): nothing of this folder is imported.
"""

import gc
import json
import os
import pathlib
import sys
import time
import traceback
import warnings

os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")  # with one core it refuses to load otherwise
warnings.filterwarnings("ignore")

import numpy as np  # noqa: E402

THREADS = int(os.environ.get("QLORA_INTEROP_THREADS", "1"))


def forward(model, tokens: np.ndarray) -> np.ndarray:
    import torch

    with torch.no_grad():
        rows = [model(input_ids=torch.from_numpy(row.astype(np.int64))[None], use_cache=False).logits[0].float() for row in tokens]
    return torch.stack(rows).numpy()


def kinds_of(model) -> list:
    """Classes of the projections: which kernel really ran."""
    return sorted({type(m).__name__ for n, m in model.named_modules() if n.endswith(("_proj", "lm_head"))})


def text_ids(folder: str, text: str) -> list:
    from transformers import AutoTokenizer

    return list(AutoTokenizer.from_pretrained(folder)(text, add_special_tokens=False)["input_ids"])


def refuse_lost_tensors(model, info: dict) -> None:
    """A tensor that the client did not find, did not want or could not fit is an error, as a client says it in a warning only."""
    tied = getattr(model.config, "tie_word_embeddings", False)
    lost = {k: sorted(map(str, v)) for k, v in info.items() if v and k in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")}
    if tied:
        lost["missing_keys"] = [k for k in lost.get("missing_keys", []) if "lm_head" not in k]
    lost = {k: v[:4] for k, v in lost.items() if v}
    if lost:
        raise RuntimeError(f"tensors were lost: {lost}")


def load_transformers(job: dict):
    import torch
    from transformers import AutoModelForCausalLM

    path, options = pathlib.Path(job["path"]), {}
    ggufs = [path] if path.suffix == ".gguf" else sorted(path.glob("*.gguf"))
    if ggufs and not (path / "model.safetensors").exists():
        from transformers import GgufConfig

        path, options = ggufs[0].parent, {"gguf_file": ggufs[0].name, "quantization_config": GgufConfig(dequantize=True)}
    else:
        method = (json.loads((path / "config.json").read_text()).get("quantization_config") or {}).get("quant_method")
        if method in ("gptq", "awq", "bitsandbytes"):
            options["device_map"] = {"": "cpu"}
    model, info = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, output_loading_info=True, **options)
    refuse_lost_tensors(model, info)
    compute_in_fp32(model)
    ids = [] if "gguf_file" in options else text_ids(str(path), job["text"])
    return model, ids


def compute_in_fp32(model) -> None:
    """eval(), and for NF4 files, where dtype= is not followed, what it should have done."""
    import torch

    model.eval()
    for module in model.modules():
        if type(module).__name__ == "Linear4bit":
            module.compute_dtype = torch.float32
            module.train()  # in eval() bitsandbytes repacks the weights for a BF16 kernel
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.float()


def load_gptqmodel(job: dict):
    import torch
    from gptqmodel import GPTQModel

    model = GPTQModel.load(job["path"], device="cpu", dtype=torch.float16)  # in FP32 it takes a kernel that ignores zero points
    return model.model.eval(), text_ids(job["path"], job["text"])


def load_autoawq(job: dict):
    import torch
    from awq import AutoAWQForCausalLM

    # The string "cpu" is refused as a device map.
    model = AutoAWQForCausalLM.from_quantized(job["path"], fuse_layers=False, device_map={"": "cpu"}, safetensors=True, torch_dtype=torch.float32)
    return model.model.float().eval(), text_ids(job["path"], job["text"])


def without_repacking() -> None:
    """llama.cpp 0.3.36 repacks quantized weights for AMX and crashes there, on a processor that has it; its plain kernels read the same files."""
    from llama_cpp import llama_cpp

    defaults = llama_cpp.llama_model_default_params

    def plain():
        parameters = defaults()
        parameters.use_extra_bufts = False
        return parameters

    llama_cpp.llama_model_default_params = plain


def run_llamacpp(job: dict, tokens: np.ndarray):
    from llama_cpp import Llama

    path = pathlib.Path(job["path"])
    file = path if path.suffix == ".gguf" else sorted(path.glob("*.gguf"))[0]
    length = max(64, tokens.shape[1])
    model = Llama(model_path=str(file), n_ctx=length, n_batch=length, n_ubatch=length, logits_all=True, n_gpu_layers=0, verbose=False,
                  n_threads=THREADS, n_threads_batch=THREADS)  # fmt: skip
    rows = []
    for row in tokens:
        model.reset()
        model.eval([int(t) for t in row])
        rows.append(np.array(model.scores[: len(row)], dtype=np.float32))
    ids = model.tokenize(job["text"].encode(), add_bos=False, special=True)
    return np.stack(rows), ["llama.cpp"], list(ids)


def run_job(client: str, job: dict) -> dict:
    tokens = np.load(job["tokens"])
    if client == "llamacpp":
        logits, kinds, ids = run_llamacpp(job, tokens)
    else:
        model, ids = {"transformers": load_transformers, "gptqmodel": load_gptqmodel, "autoawq": load_autoawq}[client](job)
        logits, kinds = forward(model, tokens), kinds_of(model)
        del model
        gc.collect()
    np.save(job["logits"], logits)
    return {"ok": True, "kinds": kinds, "text_ids": ids}


def main() -> None:
    client, jobs = sys.argv[1], json.loads(pathlib.Path(sys.argv[2]).read_text())
    if client == "llamacpp":
        without_repacking()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what clients print is no answer
    if client != "llamacpp":
        import torch

        torch.set_num_threads(THREADS)
    for job in jobs:
        begin = time.monotonic()
        print(f"--- {client} {job['name']}", file=sys.stderr, flush=True)
        try:
            answer = run_job(client, job)
        except Exception as error:  # the next job goes on; the error is this job's answer
            traceback.print_exc()
            answer = {"ok": False, "error": f"{type(error).__name__}: {error}"[:400]}
        print(json.dumps({"name": job["name"], "seconds": round(time.monotonic() - begin, 1), **answer}), file=answers, flush=True)


if __name__ == "__main__":
    main()
