"""GPTQModel on the CPU, from given token ids. One process, measured from outside by compare.py.

    .venv-export/bin/python bench/ptq/quantize_gptqmodel.py --model FOLDER --tokens FILE.safetensors --blocks 128 --output FOLDER
        [--group-size 64] [--symmetric] [--desc-act] [--threads 2]

Prints {"load_seconds", "quantize_seconds", "save_seconds"} as its last line.
"""

import argparse
import json
import os
import time

parser = argparse.ArgumentParser()
parser.add_argument("--model", required=True)
parser.add_argument("--tokens", required=True)
parser.add_argument("--blocks", type=int, default=128)
parser.add_argument("--output", required=True)
parser.add_argument("--group-size", type=int, default=64)
parser.add_argument("--symmetric", action="store_true")
parser.add_argument("--desc-act", action="store_true")
parser.add_argument("--threads", type=int, default=2)
options = parser.parse_args()

os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# It counts workers, not threads, and refuses to run with one.
os.environ["GPTQMODEL_CPU_WORKERS"] = str(max(2, options.threads))

import torch  # noqa: E402

torch.set_num_threads(options.threads)

from gptqmodel import GPTQModel, QuantizeConfig  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

begin = time.monotonic()
config = QuantizeConfig(bits=4, group_size=options.group_size, sym=options.symmetric, desc_act=options.desc_act)
model = GPTQModel.load(options.model, config, device="cpu", dtype=torch.bfloat16)
loaded = time.monotonic()
blocks = load_file(options.tokens)["train"][: options.blocks].to(torch.int64)
model.quantize([{"input_ids": b[None], "attention_mask": torch.ones_like(b)[None]} for b in blocks], batch_size=8)
quantized = time.monotonic()
model.save(options.output)
saved = time.monotonic()
print(json.dumps({"load_seconds": loaded - begin, "quantize_seconds": quantized - loaded, "save_seconds": saved - quantized}), flush=True)
