"""The Python stack's side of the comparison: bitsandbytes NF4 with double quantization, peft, transformers, on the CPU or a GPU.

One JSON object a line on stdout, flushed: {"event": "step", "step", "loss", "tokens", "seconds", "cpu_seconds"} for every
optimizer step, then {"event": "end", ...}. Step i trains on blocks 4i .. 4i+3; the loss is the mean over all next tokens.
Nothing of the comparison needs more than one forward mode: the model stays in train() mode, because an eval() forward
repacks bitsandbytes' CPU weights and later gradients would be wrong.
"""

import argparse
import json
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests" / "interop"))

import quiet  # noqa: E402, F401
import torch  # noqa: E402
from peft import PeftModel, prepare_model_for_kbit_training  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from transformers import AutoModelForCausalLM, BitsAndBytesConfig  # noqa: E402


def say(event: str, **fields) -> None:
    print(json.dumps({"event": event, **fields}), flush=True)


def load(arguments):
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[arguments.dtype]
    quantization = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
    base = AutoModelForCausalLM.from_pretrained(
        arguments.model, dtype=dtype, quantization_config=quantization, device_map=arguments.device
    )
    base = prepare_model_for_kbit_training(base, use_gradient_checkpointing=arguments.checkpointing)
    base.config.use_cache = False
    return PeftModel.from_pretrained(base, arguments.init_adapter, is_trainable=True).train()


def make_optimizer(arguments, parameters):
    if arguments.optimizer == "adamw_torch":
        return torch.optim.AdamW(parameters, lr=arguments.learning_rate, weight_decay=0.0)
    import bitsandbytes

    return bitsandbytes.optim.PagedAdamW8bit(parameters, lr=arguments.learning_rate, weight_decay=0.0)


@torch.no_grad()
def perplexity(model, blocks) -> float:
    total, count = 0.0, 0
    for block in blocks.split(4):
        logits = model(input_ids=block.long(), use_cache=False).logits[:, :-1].float()
        targets = block[:, 1:].long()
        total += torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum").double().item()
        count += targets.numel()
    return float(torch.tensor(total / count, dtype=torch.float64).exp())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--tokens", required=True)
    parser.add_argument("--init-adapter", required=True)
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--optimizer", choices=("adamw_torch", "paged_adamw_8bit"), default="adamw_torch")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--heldout-blocks", type=int, default=0, help="also print the perplexity before and after")
    parser.add_argument("--save", default="", help="write the trained adapter here")
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    tokens = load_file(arguments.tokens)
    heldout = tokens["heldout"][: arguments.heldout_blocks] if arguments.heldout_blocks else []
    model = load(arguments)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = make_optimizer(arguments, parameters)
    ppl_before = perplexity(model, heldout) if len(heldout) else None

    for step in range(arguments.steps):
        block = tokens["train"][arguments.batch * step :][: arguments.batch].long().to(arguments.device)
        wall, cpu = time.perf_counter(), time.process_time()
        loss = model(input_ids=block, labels=block).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        value = loss.item()  # waits for the loss, not for the update behind it
        if arguments.device == "cuda":
            torch.cuda.synchronize()
        say("step", step=step + 1, loss=value, tokens=block.numel(),
            seconds=time.perf_counter() - wall, cpu_seconds=time.process_time() - cpu)
    ppl_after = perplexity(model, heldout) if len(heldout) else None
    if arguments.save:
        model.save_pretrained(arguments.save)
    on_device = {"peak_device_bytes": torch.cuda.max_memory_allocated()} if arguments.device == "cuda" else {}
    say("end", trainable_parameters=sum(p.numel() for p in parameters), perplexity_before=ppl_before, perplexity_after=ppl_after,
        **on_device)


if __name__ == "__main__":
    main()
