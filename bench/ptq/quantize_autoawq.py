"""AutoAWQ on the CPU, from given token ids. One process, measured from outside by compare.py.

    .venv-autoawq/bin/python bench/ptq/quantize_autoawq.py --model FOLDER --tokens FILE.safetensors --blocks 16 --output FOLDER
        [--group-size 64] [--threads 2] [--unpatched]

AutoAWQ 0.2.9 keeps the weights to go back to after each trial of the scale search as `.cpu()` of them, which on the CPU is
the weights themselves: every later trial, and the file, is wrong. The patch below clones them. --unpatched leaves the bug in.
Prints {"load_seconds", "quantize_seconds", "save_seconds"} as its last line.
"""

import argparse
import json
import os
import pathlib
import tempfile
import time
import warnings

parser = argparse.ArgumentParser()
parser.add_argument("--model", required=True)
parser.add_argument("--tokens", required=True)
parser.add_argument("--blocks", type=int, default=16)
parser.add_argument("--output", required=True)
parser.add_argument("--group-size", type=int, default=64)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--unpatched", action="store_true")
options = parser.parse_args()

os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ.setdefault("HF_HUB_OFFLINE", "1")
warnings.filterwarnings("ignore")

import torch  # noqa: E402

torch.set_num_threads(options.threads)

from awq import AutoAWQForCausalLM  # noqa: E402
from awq.quantize.quantizer import AwqQuantizer  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402


class Quantizer(AwqQuantizer):
    """With the weights of a trial restored from a copy."""

    def _compute_best_scale(self, x, w_mean, x_mean, module2inspect, linears2scale, fp16_output, kwargs={}):
        live = module2inspect.state_dict
        copies = {k: v.clone() for k, v in live().items()}
        module2inspect.state_dict = lambda *a, **k: copies
        try:
            return super()._compute_best_scale(x, w_mean, x_mean, module2inspect, linears2scale, fp16_output, kwargs)
        finally:
            del module2inspect.state_dict


def folder_for_transformers_4(model: pathlib.Path, target: pathlib.Path) -> str:
    """Links to the model with two names of transformers 5 put back: else the RoPE base is silently 10000, and no tokenizer loads."""
    for file in model.iterdir():
        (target / file.name).symlink_to(file.resolve())
    for name, change in (("config.json", lambda c: {**c.get("rope_parameters", {}), **c, "torch_dtype": c.get("dtype")}),
                         ("tokenizer_config.json", lambda c: {**c, "tokenizer_class": "PreTrainedTokenizerFast"})):  # fmt: skip
        changed = change(json.loads((model / name).read_text()))
        changed.pop("rope_type", None)
        changed.pop("rope_parameters", None)
        (target / name).unlink()
        (target / name).write_text(json.dumps(changed))
    return str(target)


begin = time.monotonic()
links = tempfile.TemporaryDirectory()
options.model = folder_for_transformers_4(pathlib.Path(options.model), pathlib.Path(links.name))
model = AutoAWQForCausalLM.from_pretrained(options.model, device_map="cpu", safetensors=True, torch_dtype=torch.float32)
tokenizer = AutoTokenizer.from_pretrained(options.model)
loaded = time.monotonic()
blocks = load_file(options.tokens)["train"][: options.blocks].tolist()
model.quantize(tokenizer, quant_config={"zero_point": True, "q_group_size": options.group_size, "w_bit": 4, "version": "GEMM"},
               calib_data=blocks, max_calib_samples=len(blocks), max_calib_seq_len=len(blocks[0]),
               quantizer_cls=AwqQuantizer if options.unpatched else Quantizer)  # fmt: skip
quantized = time.monotonic()
model.save_quantized(options.output)
tokenizer.save_pretrained(options.output)
saved = time.monotonic()
print(json.dumps({"load_seconds": loaded - begin, "quantize_seconds": quantized - loaded, "save_seconds": saved - quantized}), flush=True)
