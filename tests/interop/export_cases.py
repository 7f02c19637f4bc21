"""What export_loaders.py writes, who reads it, how close they must agree, and one planted corruption for each format."""

import dataclasses
import json
import pathlib
import shutil
import struct
from collections.abc import Callable

import export_decoder
import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

# ---- corruptions: each is a mistake that an exporter could make ------------------------------------------------------


def edit(folder: pathlib.Path, change: Callable) -> None:
    """change(tensors, quantization_config) on the tensors of every shard, in place."""
    config = json.loads((folder / "config.json").read_text())
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata()
            tensors = {k: opened.get_tensor(k).clone() for k in opened.keys()}
        change(tensors, config.get("quantization_config"))
        save_file({k: v.contiguous() for k, v in tensors.items()}, file, metadata=metadata)
    (folder / "config.json").write_text(json.dumps(config, indent=2))


DOWN, QUERY = "model.layers.0.mlp.down_proj", "model.layers.0.self_attn.q_proj"


def add_to_fields(words: torch.Tensor, bits: int, addend: int) -> torch.Tensor:
    """Adds to every field of the words, each modulo 2^bits."""
    raw, mask, out = words.numpy().view(np.uint32), np.uint32(2**bits - 1), np.zeros(words.shape, np.uint32)
    for shift in range(0, 32 - bits + 1, bits):
        out |= ((raw >> np.uint32(shift) & mask) + np.uint32(addend % 2**bits) & mask) << np.uint32(shift)
    return torch.from_numpy(out.view(np.int32))


def zeros_off_by_one(tensors: dict, quantization: dict) -> None:
    """The zero points of the first block moved by one: what mixing up v1 and v2 does to all of them."""
    for key in tensors:
        if key.startswith("model.layers.0.") and key.endswith(".qzeros"):
            tensors[key] = add_to_fields(tensors[key], quantization["bits"], 1)


def act_order_lost(tensors: dict, quantization: dict) -> None:
    index = tensors[f"{DOWN}.g_idx"]
    groups = tensors[f"{DOWN}.scales"].shape[0]
    tensors[f"{DOWN}.g_idx"] = (torch.arange(len(index)) // (len(index) // groups)).to(index.dtype)


def fields_reversed(tensors: dict, quantization: dict) -> None:
    """The first value of a word in its highest bits instead of its lowest. 3 bits: the three words of a run swapped."""
    key, bits = f"{DOWN}.qweight", quantization["bits"]
    words = tensors[key].numpy().view(np.uint32)
    if bits == 3:
        swapped = words.reshape(-1, 3, words.shape[1])[:, ::-1].reshape(words.shape)
    else:
        swapped, count = np.zeros_like(words), 32 // bits
        for i in range(count):
            swapped |= (words >> np.uint32(bits * i) & np.uint32(2**bits - 1)) << np.uint32(bits * (count - 1 - i))
    tensors[key] = torch.from_numpy(np.ascontiguousarray(swapped).view(np.int32))


def awq_plain_order(tensors: dict, quantization: dict) -> None:
    """Columns in their natural order instead of the interleaved one."""
    codes = export_decoder.awq_codes(tensors[f"{DOWN}.qweight"].numpy()).astype(np.uint32).reshape(tensors[f"{DOWN}.qweight"].shape + (8,))
    words = sum(codes[:, :, n] << np.uint32(4 * n) for n in range(8))
    tensors[f"{DOWN}.qweight"] = torch.from_numpy(words.astype(np.uint32).view(np.int32))


def signs_not_shifted(tensors: dict, quantization: dict) -> None:
    """Two's complement nibbles where the offset by 8 belongs."""
    tensors[f"{DOWN}.weight_packed"] = tensors[f"{DOWN}.weight_packed"] ^ -2004318072  # 0x88888888


def scale_exponent_flipped(tensors: dict, quantization: dict) -> None:
    """16 times the scale of the first row (or matrix): one bit of an FP16 or BF16 exponent."""
    scale = tensors[f"{DOWN}.weight_scale"]
    scale.view(-1)[0] *= 16


def input_scale_exponent_flipped(tensors: dict, quantization: dict) -> None:
    """The calibrated input range 16 times too small: everything beyond saturates."""
    tensors[f"{DOWN}.input_scale"] /= 16


def nibbles_swapped(tensors: dict, quantization: dict) -> None:
    packed = tensors[f"{DOWN}.weight"]
    tensors[f"{DOWN}.weight"] = (packed >> 4) | (packed << 4)


def rows_paired_as_in_gguf(tensors: dict, quantization: dict) -> None:
    """Query rows in llama.cpp's order for RoPE."""
    rows = tensors[f"{QUERY}.weight"]
    tensors[f"{QUERY}.weight"] = rows.view(-1, 2, 32, rows.shape[1]).transpose(1, 2).reshape(rows.shape)


def gguf_bytes(change: Callable) -> Callable:
    """Applies change(file: Gguf, bytes: bytearray) to the GGUF of a folder."""

    def apply(folder: pathlib.Path) -> None:
        path = export_decoder.gguf_of(folder)
        header, data = export_decoder.Gguf(path), bytearray(path.read_bytes())
        change(header, data)
        header.bytes.close()
        path.write_bytes(data)

    apply.name = change.__name__
    return apply


def block_scale_bit_flipped(header, data: bytearray) -> None:
    """The highest exponent bit in the d of one block: 65536 times as much."""
    begin = header.tensors["blk.0.ffn_down.weight"].begin
    (d,) = struct.unpack_from("<H", data, begin)
    struct.pack_into("<H", data, begin, d ^ 0x4000)


def block_scales_and_minima_swapped(header, data: bytearray) -> None:
    """d and dmin of every block of a row of blocks change places."""
    tensor = header.tensors["blk.0.ffn_down.weight"]
    for begin in range(tensor.begin, tensor.begin + tensor.byte_count, 144):
        data[begin : begin + 4] = data[begin + 2 : begin + 4] + data[begin : begin + 2]


def gguf_rows_not_paired(header, data: bytearray) -> None:
    """Query rows in transformers' order."""
    tensor = header.tensors["blk.0.attn_q.weight"]
    raw = np.frombuffer(bytes(data[tensor.begin : tensor.begin + tensor.byte_count]), np.uint8).reshape(tensor.shape[0], -1)
    heads = header.keys["llama.attention.head_count"]
    data[tensor.begin : tensor.begin + tensor.byte_count] = export_decoder.in_halves(raw, heads).tobytes()


def safetensors_change(change: Callable) -> Callable:
    def apply(folder: pathlib.Path) -> None:
        edit(folder, change)

    apply.name = change.__name__
    return apply


# ---- the cases -------------------------------------------------------------------------------------------------------

GPTQ_CLIENTS, AWQ_CLIENTS, HF_CLIENTS, GGUF_CLIENTS = ("transformers", "gptqmodel"), ("transformers", "gptqmodel", "autoawq"), ("transformers",), ("llamacpp", "transformers")


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    arguments: tuple  # of `qlora export`
    clients: tuple
    corrupt: Callable  # of a folder, in place
    bits: int
    rounds_activations: bool = False
    for_smollm2: bool = False
    rounded_on_smollm2: bool = False  # there plainly, not by a solver: the same files, minutes earlier

    @property
    def corruption(self) -> str:
        return self.corrupt.name

    def arguments_for(self, model: str) -> list:
        arguments = list(self.arguments)
        if model == "smollm2" and self.rounded_on_smollm2:
            at = arguments.index("--quantization-type") + 1
            format_ = {"awq": "awq", "gptq": "gptq"}[arguments[at]]
            arguments[at] = "rtn"
            if "--format" not in arguments:
                arguments += ["--format", format_]
        return arguments


def case(name: str, arguments: str, clients: tuple, corrupt: Callable, bits: int, **more) -> Case:
    return Case(name, tuple(arguments.split()), clients, corrupt, bits, **more)


def hf_case(name: str, arguments: str, clients: tuple, change: Callable, bits: int, **more) -> Case:
    return case(name, arguments, clients, safetensors_change(change), bits, **more)


CASES = [
    hf_case("awq-4", "--quantization-type awq", AWQ_CLIENTS, awq_plain_order, 4, for_smollm2=True, rounded_on_smollm2=True),
    hf_case("awq-4-g32-from-rtn", "--quantization-type rtn --format awq --group-size 32", AWQ_CLIENTS, awq_plain_order, 4),
    hf_case("awq-8-as-gptq", "--quantization-type awq --bits 8", GPTQ_CLIENTS, fields_reversed, 8),
    hf_case("gptq-4-sym", "--quantization-type gptq --symmetric true --set export.desc_act=false", GPTQ_CLIENTS, zeros_off_by_one, 4),
    hf_case("gptq-4-asym", "--quantization-type gptq --format gptq --symmetric false --set export.desc_act=false", GPTQ_CLIENTS, zeros_off_by_one, 4, for_smollm2=True, rounded_on_smollm2=True),
    hf_case("gptq-4-desc-act", "--quantization-type gptq --symmetric true --set export.desc_act=true", GPTQ_CLIENTS, act_order_lost, 4),
    hf_case("gptq_v2-4-asym", "--quantization-type gptq --format gptq_v2 --symmetric false", GPTQ_CLIENTS, zeros_off_by_one, 4),
    hf_case("gptq-8", "--quantization-type gptq --bits 8", GPTQ_CLIENTS, fields_reversed, 8),
    hf_case("gptq-3", "--quantization-type gptq --bits 3 --group-size 64", GPTQ_CLIENTS, fields_reversed, 3),
    hf_case("gptq-2", "--quantization-type gptq --bits 2 --group-size 32", GPTQ_CLIENTS, fields_reversed, 2),
    hf_case("ct-w4a16", "--quantization-type gptq --format compressed-tensors", HF_CLIENTS, signs_not_shifted, 4, for_smollm2=True, rounded_on_smollm2=True),
    hf_case("ct-w8a8", "--quantization-type smoothquant", HF_CLIENTS, scale_exponent_flipped, 8, rounds_activations=True, for_smollm2=True),
    hf_case("ct-fp8-dynamic", "--quantization-type fp8", HF_CLIENTS, scale_exponent_flipped, 8, rounds_activations=True),
    hf_case("ct-fp8-static", "--quantization-type fp8 --set export.static_fp8=true", HF_CLIENTS, input_scale_exponent_flipped, 8, rounds_activations=True),
    hf_case("hf-16", "--quantization-type none", ("transformers", "gptqmodel"), rows_paired_as_in_gguf, 16),
    hf_case("nf4", "--quantization-type rtn --format nf4", HF_CLIENTS, nibbles_swapped, 4, for_smollm2=True),
    case("gguf-f16", "--quantization-type none --format gguf", GGUF_CLIENTS, gguf_bytes(gguf_rows_not_paired), 16, for_smollm2=True),
    case("gguf-q8_0", "--quantization-type rtn --format gguf --bits 8", GGUF_CLIENTS, gguf_bytes(block_scale_bit_flipped), 8, for_smollm2=True),
    case("gguf-q4_0", "--quantization-type rtn --format gguf --gguf-type q4_0", GGUF_CLIENTS, gguf_bytes(block_scale_bit_flipped), 4, for_smollm2=True),
    case("gguf-q4_k", "--quantization-type rtn --format gguf --gguf-type q4_k", GGUF_CLIENTS, gguf_bytes(block_scales_and_minima_swapped), 4),
]  # fmt: skip


def corrupted_copy(case: Case, folder: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
    shutil.copytree(folder, target)
    case.corrupt(target)
    return target


def case_of_folder(folder: pathlib.Path) -> Case:
    """The case that an export is most like, from its own config."""
    if export_decoder.gguf_of(folder):
        header = export_decoder.Gguf(export_decoder.gguf_of(folder))
        kind = export_decoder.GGML_NAME[header.tensors["blk.0.ffn_down.weight"].type]
        return next(c for c in CASES if c.name == f"gguf-{kind.lower()}")
    quantization = json.loads((folder / "config.json").read_text()).get("quantization_config") or {}
    method, bits = quantization.get("quant_method", "none"), quantization.get("bits", 4)
    if method == "gptq":
        if quantization.get("desc_act"):
            name = "gptq-4-desc-act"
        elif quantization.get("checkpoint_format") == "gptq_v2":
            name = "gptq_v2-4-asym"
        else:
            name = {8: "gptq-8", 4: "gptq-4-sym", 3: "gptq-3", 2: "gptq-2"}[bits]
    elif method == "compressed-tensors":
        scheme = next(iter(quantization["config_groups"].values()))
        inputs = scheme.get("input_activations")
        name = "ct-w4a16" if not inputs else "ct-w8a8" if inputs["type"] == "int" else "ct-fp8-dynamic" if inputs["dynamic"] else "ct-fp8-static"
    else:
        name = {"awq": "awq-4", "bitsandbytes": "nf4", "none": "hf-16"}[method]
    return next(c for c in CASES if c.name == name)
