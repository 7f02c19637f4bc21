#!/usr/bin/env python3
"""Compares what `qlora plan` says of a run with what the run takes, and prints the table of docs/memory.md.

    bench/memory/measure.py [--qlora build/bin/qlora] [--work DIR] [--only NAME,NAME] [--json]

Models are made of random numbers, but for the quickstart's. A row fails, and with it the script, where plan and
measured peak are further than 10% apart.
"""
import argparse
import json
import os
import pathlib
import random
import struct
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
BOUND = 0.10


def made_model(folder, width, mlp, layers, heads, kv_heads, vocabulary):
    """A Llama of random BF16 numbers between 2^-7 and 2^-6, either sign."""
    folder.mkdir(parents=True, exist_ok=True)
    head = width // heads
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": width,
              "intermediate_size": mlp, "num_hidden_layers": layers, "num_attention_heads": heads,
              "num_key_value_heads": kv_heads, "vocab_size": vocabulary, "max_position_embeddings": 4096,
              "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": False,
              "torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2}
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    shapes = {"model.embed_tokens.weight": [vocabulary, width], "model.norm.weight": [width],
              "lm_head.weight": [vocabulary, width]}
    for i in range(layers):
        block = f"model.layers.{i}."
        shapes[block + "input_layernorm.weight"] = shapes[block + "post_attention_layernorm.weight"] = [width]
        for name, rows, columns in (("self_attn.q_proj", width, width), ("self_attn.k_proj", kv_heads * head, width),
                                    ("self_attn.v_proj", kv_heads * head, width), ("self_attn.o_proj", width, width),
                                    ("mlp.gate_proj", mlp, width), ("mlp.up_proj", mlp, width),
                                    ("mlp.down_proj", width, mlp)):
            shapes[f"{block}{name}.weight"] = [rows, columns]
    entries = []
    for name, shape in shapes.items():
        count = shape[0] * (shape[1] if len(shape) == 2 else 1)
        entries.append((name, "BF16", shape, 2 * count))
    noise = random.Random(1)
    pattern = b"".join(struct.pack("<H", noise.getrandbits(1) << 15 | 0x3C00 | noise.getrandbits(7))
                       for _ in range(1 << 18))
    write_safetensors(folder / "model.safetensors", entries,
                      lambda bytes_: (pattern * (bytes_ // len(pattern) + 1))[:bytes_])


def write_safetensors(path, entries, content):
    header, at = {}, 0
    for name, kind, shape, size in entries:
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, _, _, size in entries:
            file.write(content(size))


def token_file(path, rows, length, vocabulary):
    noise = random.Random(2)
    ids = struct.pack(f"<{rows * length}i", *(noise.randrange(vocabulary) for _ in range(rows * length)))
    write_safetensors(path, [("train", "I32", [rows, length], len(ids))], lambda size: ids)


def run_config(work, name, model, batch, length, **more):
    """A few steps over rows of `length` ids."""
    tokens = work / f"{name}.safetensors"
    token_file(tokens, 2 * batch * more.get("gradient_accumulation_steps", 1), length, 256)
    config = {"model_name_or_path": str(model), "output_dir": str(work / f"{name}-run"), "max_steps": 4,
              "data": {"tokens": {"file": str(tokens)}, "max_length": length},
              "per_device_train_batch_size": batch, "save_strategy": "no", "report": False, "report_to": []}
    config.update(more)
    path = work / f"{name}.json"
    path.write_text(json.dumps(config, indent=1))
    return path


def rows(work, wanted):
    smollm2 = ROOT / "models/smollm2-135m/SmolLM2-135M-Instruct.Q4_1.gguf"
    made = {"wide": (1024, 2816, 8, 16, 4, 8000), "deep": (512, 1408, 24, 8, 8, 4000)}
    for name, sizes in made.items():
        if any(w.startswith(name) for w in wanted) or not wanted:
            made_model(work / name, *sizes)
    cases = [
        ("quickstart", lambda: (ROOT / "configs/smollm2-quickstart.json",
                                ["--set", f"output_dir={json.dumps(str(work / 'quickstart-run'))}"])),
        ("smollm2-packed", lambda: (run_config(work, "smollm2-packed", smollm2, 4, 512), [])),
        ("smollm2-checkpointed", lambda: (run_config(work, "smollm2-checkpointed", smollm2, 8, 512,
                                                     gradient_checkpointing=True), [])),
        ("smollm2-2048", lambda: (run_config(work, "smollm2-2048", smollm2, 1, 2048,
                                             gradient_accumulation_steps=2, optim="adamw_torch"), [])),
        ("wide", lambda: (run_config(work, "wide", work / "wide", 4, 256, lora={"r": 64}), [])),
        ("wide-fp32", lambda: (run_config(work, "wide-fp32", work / "wide", 2, 256, compute_dtype="fp32"), [])),
        ("deep", lambda: (run_config(work, "deep", work / "deep", 8, 128,
                                     quantization={"load_in_4bit": False}), [])),
    ]
    return [(name, make) for name, make in cases if not wanted or name in wanted]


def run(command):
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")
    return json.loads(done.stdout)


def megabytes(count):
    return f"{count / 1e6:.0f}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--qlora", default=str(ROOT / "build/bin/qlora"))
    parser.add_argument("--work", default=None)
    parser.add_argument("--only", default="")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    work = pathlib.Path(arguments.work or tempfile.mkdtemp(prefix="qlora-memory-"))
    os.makedirs(work, exist_ok=True)
    results = []
    for name, make in rows(work, [w for w in arguments.only.split(",") if w]):
        config, overrides = make()
        plan = run([arguments.qlora, "plan", str(config), "--json", *overrides])
        trained = run([arguments.qlora, "train", str(config), "--json", "--overwrite", *overrides])
        results.append({"name": name, "planned": plan["total_bytes"], "measured": trained["peak_rss_bytes"],
                        "parts": plan["memory"], "peak": plan["peak"]})
        print(f"{name}: planned {megabytes(plan['total_bytes'])} MB, measured "
              f"{megabytes(trained['peak_rss_bytes'])} MB", file=sys.stderr)
    if arguments.json:
        print(json.dumps(results, indent=1))
    else:
        print("| run | planned (MB) | measured (MB) | difference |\n|---|---|---|---|")
        for r in results:
            print(f"| {r['name']} | {megabytes(r['planned'])} | {megabytes(r['measured'])} | "
                  f"{100 * (r['planned'] / r['measured'] - 1):+.1f}% |")
    return int(any(abs(r["planned"] / r["measured"] - 1) > BOUND for r in results))


if __name__ == "__main__":
    sys.exit(main())
