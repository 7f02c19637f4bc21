"""Weights of an exported checkpoint, decoded bit by bit in numpy: the reference of export_loaders.py and of bench/ptq.

Written from the definitions in docs/formats.md alone. It calls neither the program nor any loader's own decoder (gptqmodel,
compressed-tensors, bitsandbytes, gguf), so that agreement with those means something. Only safetensors and numpy read files.

    decoded = decode(FOLDER_OR_GGUF)      decoded.weights {parameter name: fp32 [N, K]}, decoded.config as of transformers
    model = reference_model(decoded)      transformers in FP32 on these weights; W8A8 and FP8 also round the activations
"""

import dataclasses
import fnmatch
import json
import mmap
import pathlib
import re
import struct

import numpy as np


@dataclasses.dataclass
class Activations:
    """How the input of a quantized linear is rounded before the product."""

    kind: str  # "int8" or "fp8"
    static_scale: float | None  # None: one scale a token


@dataclasses.dataclass
class Decoded:
    config: dict  # of transformers, without quantization_config
    weights: dict
    quantized: dict  # module name -> bits
    activations: dict  # module name -> Activations
    method: str  # gptq, gptq_v2, awq, compressed-tensors, bitsandbytes, gguf, none


# ---- streams of codes ------------------------------------------------------------------------------------------------


def stream_down(words: np.ndarray, bits: int, count: int) -> np.ndarray:
    """int32 [ceil(count * bits / 32), C] -> codes [count, C]: a little-endian bit stream down axis 0."""
    words = np.ascontiguousarray(words).view(np.uint32).astype(np.uint64)
    words = np.concatenate([words, np.zeros((1, words.shape[1]), np.uint64)])  # a value may end in the next word
    first = np.arange(count) * bits
    word, shift = first // 32, (first % 32).astype(np.uint64)[:, None]
    return ((words[word] | (words[word + 1] << np.uint64(32))) >> shift & np.uint64(2**bits - 1)).astype(np.int32)


def stream_along(words: np.ndarray, bits: int, count: int) -> np.ndarray:
    return stream_down(np.ascontiguousarray(words.T), bits, count).T


AWQ_COLUMN_OF_NIBBLE = [0, 2, 4, 6, 1, 3, 5, 7]


def awq_codes(words: np.ndarray) -> np.ndarray:
    """int32 [R, C] -> codes [R, 8 C]: nibble n of a word holds column AWQ_COLUMN_OF_NIBBLE[n]."""
    words = np.ascontiguousarray(words).view(np.uint32)
    codes = np.empty((*words.shape, 8), np.int32)
    for nibble, column in enumerate(AWQ_COLUMN_OF_NIBBLE):
        codes[:, :, column] = words >> np.uint32(4 * nibble) & np.uint32(15)
    return codes.reshape(words.shape[0], -1)


def affine(codes: np.ndarray, zeros: np.ndarray, scales: np.ndarray, group_of: np.ndarray) -> np.ndarray:
    """codes [K, N], zeros and scales [groups, N] -> weight [N, K]."""
    return ((codes - zeros[group_of]).astype(np.float32) * scales.astype(np.float32)[group_of]).T


# ---- formats of Hugging Face folders ---------------------------------------------------------------------------------


def decode_gptq(t: dict, bits: int, is_v2: bool) -> np.ndarray:
    groups, rows = t["scales"].shape
    columns = len(t["g_idx"]) if "g_idx" in t else t["qweight"].shape[0] * 32 // bits
    group_of = t["g_idx"].astype(np.int64) if "g_idx" in t else np.arange(columns) // (columns // groups)
    zeros = stream_along(t["qzeros"], bits, rows)
    if not is_v2:
        zeros = (zeros + 1) % 2**bits
    return affine(stream_down(t["qweight"], bits, columns), zeros, t["scales"], group_of)


def decode_awq(t: dict, bits: int) -> np.ndarray:
    if bits != 4:
        raise SystemExit(f"[export_decoder] awq words hold 4 bits, not {bits}")
    codes = awq_codes(t["qweight"])
    group_of = np.arange(codes.shape[0]) // (codes.shape[0] // t["scales"].shape[0])
    return affine(codes, awq_codes(t["qzeros"]), t["scales"], group_of)


def decode_compressed_tensors(t: dict, bits: int) -> np.ndarray:
    scale = t["weight_scale"].astype(np.float32)
    if "weight_packed" in t:
        rows, columns = (int(n) for n in t["weight_shape"])
        codes = stream_along(t["weight_packed"], bits, columns) - 2 ** (bits - 1)
        zeros = stream_down(t["weight_zero_point"], bits, rows) - 2 ** (bits - 1) if "weight_zero_point" in t else np.zeros((rows, scale.shape[1]), np.int32)
    else:
        codes = t["weight"].astype(np.float32)
        columns = codes.shape[1]
        zeros = np.zeros_like(scale)
        if scale.size == 1:
            return codes * scale.reshape(())
    group_of = t["weight_g_idx"].astype(np.int64) if "weight_g_idx" in t else np.arange(columns) // (columns // scale.shape[1])
    return (codes - zeros[:, group_of]).astype(np.float32) * scale[:, group_of]


def decode_bitsandbytes_4bit(t: dict) -> np.ndarray:
    state = json.loads(bytes(next(v for k, v in t.items() if ".quant_state.bitsandbytes__" in k)).decode())
    absmax = t["weight.absmax"]
    if "weight.nested_absmax" in t:
        block = np.arange(absmax.size) // state["nested_blocksize"]
        absmax = t["weight.nested_quant_map"][absmax] * t["weight.nested_absmax"][block] + np.float32(state["nested_offset"])
    packed = t["weight"].reshape(-1)
    count = int(np.prod(state["shape"]))
    codes = np.stack([packed >> 4, packed & 15], axis=1).reshape(-1)[:count]  # the first element is the high nibble
    return (t["weight.quant_map"][codes] * absmax.astype(np.float32)[np.arange(count) // state["blocksize"]]).reshape(state["shape"])


PARTS = {"qweight", "qzeros", "scales", "g_idx", "weight_packed", "weight_scale", "weight_zero_point", "weight_shape", "weight_g_idx",
         "input_scale", "input_zero_point"}  # fmt: skip


def read_with_metadata(file: pathlib.Path) -> tuple:
    """Tensors of one file; the types that numpy lacks come as fp32, which holds them exactly."""
    import torch
    from safetensors import safe_open

    tensors = {}
    with safe_open(file, "pt") as opened:
        for key in opened.keys():
            tensor = opened.get_tensor(key)
            is_narrow = tensor.dtype in (torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)
            tensors[key] = (tensor.float() if is_narrow else tensor).numpy()
        return tensors, opened.metadata() or {}


def read_safetensors(folder: pathlib.Path) -> dict:
    index = folder / "model.safetensors.index.json"
    names = sorted(set(json.loads(index.read_text())["weight_map"].values())) if index.exists() else ["model.safetensors"]
    return {key: tensor for name in names for key, tensor in read_with_metadata(folder / name)[0].items()}


def module_of(key: str, quantized_modules: set) -> str | None:
    """The quantized module that a tensor belongs to: `m.qweight`, `m.bias`, `m.weight.absmax`."""
    for candidate in (key.rpartition(".")[0], key.split(".weight.")[0]):
        if candidate in quantized_modules:
            return candidate
    return None


def decode_folder(folder: pathlib.Path) -> Decoded:
    config = json.loads((folder / "config.json").read_text())
    quantization = config.pop("quantization_config", None) or {}
    tensors = read_safetensors(folder)
    method = quantization.get("quant_method", "none")
    modules = {key.rpartition(".")[0] for key in tensors if key.rpartition(".")[2] in PARTS}
    modules |= {key.split(".weight.")[0] for key in tensors if ".quant_state.bitsandbytes__" in key}
    parts, result = {m: {} for m in modules}, Decoded(config, {}, {}, {}, method)
    for key, value in tensors.items():
        module = module_of(key, modules)
        if module is not None:
            parts[module][key[len(module) + 1 :]] = value
        elif not key.endswith((".k_scale", ".v_scale")):
            result.weights[key] = value.astype(np.float32)
    for module, t in parts.items():
        bits = quantization.get("bits", quantization.get("w_bit", 4))
        if method == "gptq":
            is_v2 = (quantization.get("checkpoint_format") or quantization.get("format") or "gptq") == "gptq_v2"
            result.method = "gptq_v2" if is_v2 else "gptq"
            for pattern, override in (quantization.get("dynamic") or {}).items():
                if re.match(pattern.removeprefix("+:"), module):
                    bits = (override or {}).get("bits", bits)
            weight = decode_gptq(t, bits, is_v2)
        elif method == "awq":
            weight = decode_awq(t, bits)
        elif method == "compressed-tensors":
            scheme = scheme_of(module, quantization)
            bits = scheme["weights"]["num_bits"]
            weight = decode_compressed_tensors(t, bits)
            inputs = scheme.get("input_activations")
            if inputs:
                scale = None if inputs["dynamic"] else float(t["input_scale"].reshape(()))
                result.activations[module] = Activations("fp8" if inputs["type"] == "float" else "int8", scale)
        elif method == "bitsandbytes":
            weight = decode_bitsandbytes_4bit(t)
        else:
            raise SystemExit(f"[export_decoder] {folder}: quant_method {method!r} is not known")
        result.weights[module + ".weight"] = weight
        result.quantized[module] = bits
        if "bias" in t:
            result.weights[module + ".bias"] = t["bias"].astype(np.float32)
    return result


def decode_fixture(t: dict, metadata: dict) -> np.ndarray:
    """One matrix as tests/fixtures/export keeps it: names without their module, the config in the metadata."""
    if "blocks" in t:
        type_ = next(number for number, name in GGML_NAME.items() if name == metadata["type"])
        return decode_ggml(t["blocks"].reshape(-1), type_).reshape(len(t["blocks"]), -1)
    quantization = json.loads(metadata["quantization_config"])
    method = quantization["quant_method"]
    if method == "gptq":
        return decode_gptq(t, quantization["bits"], quantization["checkpoint_format"] == "gptq_v2")
    if method == "awq":
        return decode_awq(t, quantization["bits"])
    if method == "compressed-tensors":
        return decode_compressed_tensors(t, scheme_of("", quantization)["weights"]["num_bits"])
    return decode_bitsandbytes_4bit(t)


def scheme_of(module: str, quantization: dict) -> dict:
    """The config group of a module: by a `re:` target, by its name's ending, or by its class."""
    groups = list(quantization["config_groups"].values())
    for group in groups:
        for target in group["targets"]:
            if target.startswith("re:") and re.match(target[3:], module) or fnmatch.fnmatch(module, "*" + target):
                return group
    return next(g for g in groups if "Linear" in g["targets"])


# ---- GGUF ------------------------------------------------------------------------------------------------------------

SCALAR = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
GGML_F32, GGML_F16, GGML_Q4_0, GGML_Q8_0, GGML_Q4_K, GGML_BF16 = 0, 1, 2, 8, 12, 30
GGML_BLOCK = {GGML_F32: (1, 4), GGML_F16: (1, 2), GGML_BF16: (1, 2), GGML_Q4_0: (32, 18), GGML_Q8_0: (32, 34), GGML_Q4_K: (256, 144)}
GGML_NAME = {GGML_F32: "F32", GGML_F16: "F16", GGML_BF16: "BF16", GGML_Q4_0: "Q4_0", GGML_Q8_0: "Q8_0", GGML_Q4_K: "Q4_K"}


@dataclasses.dataclass
class GgufTensor:
    type: int
    shape: list  # [N, K], row-major
    begin: int  # of its bytes in the file
    byte_count: int


class Gguf:
    """The header of a GGUF file, and where each tensor lies."""

    def __init__(self, path: pathlib.Path):
        with open(path, "rb") as file:
            self.bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.at = 0
        magic, version, tensor_count, key_count = self.take("<4sIQQ")
        if magic != b"GGUF" or version != 3:
            raise SystemExit(f"[export_decoder] {path}: magic {magic!r}, version {version}; expected GGUF, version 3")
        self.keys = {}
        for _ in range(key_count):
            key = self.string()
            self.keys[key] = self.value(*self.take("<I"))
        heads = []
        for _ in range(tensor_count):
            name, (rank,) = self.string(), self.take("<I")
            dims = self.take(f"<{rank}Q")
            heads.append((name, list(dims[::-1]), *self.take("<IQ")))
        alignment = self.keys.get("general.alignment", 32)
        data = -(-self.at // alignment) * alignment
        self.tensors = {}
        for name, shape, type_, offset in heads:
            elements, size = GGML_BLOCK[type_]
            self.tensors[name] = GgufTensor(type_, shape, data + offset, int(np.prod(shape)) // elements * size)

    def take(self, layout: str):
        values = struct.unpack_from(layout, self.bytes, self.at)
        self.at += struct.calcsize(layout)
        return values

    def string(self) -> str:
        (length,) = self.take("<Q")
        self.at += length
        return self.bytes[self.at - length : self.at].decode()

    def value(self, type_: int):
        if type_ == STRING:
            return self.string()
        if type_ == ARRAY:
            element, count = self.take("<IQ")
            if element in SCALAR:
                return list(self.take(f"<{count}{SCALAR[element]}"))
            return [self.value(element) for _ in range(count)]
        return self.take("<" + SCALAR[type_])[0]

    def weight(self, name: str) -> np.ndarray:
        t = self.tensors[name]
        raw = np.frombuffer(self.bytes, np.uint8, t.byte_count, t.begin)
        return decode_ggml(raw, t.type).reshape(t.shape)


def half(raw: np.ndarray) -> np.ndarray:
    """[blocks, 2] bytes -> fp32 [blocks, 1]."""
    return np.ascontiguousarray(raw).view(np.float16).astype(np.float32)


def decode_ggml(raw: np.ndarray, type_: int) -> np.ndarray:
    if type_ == GGML_F32:
        return raw.view(np.float32).copy()
    if type_ == GGML_F16:
        return raw.view(np.float16).astype(np.float32)
    if type_ == GGML_BF16:
        return (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    blocks = raw.reshape(-1, GGML_BLOCK[type_][1])
    d = half(blocks[:, :2])
    if type_ == GGML_Q8_0:
        return d * blocks[:, 2:].view(np.int8).astype(np.float32)
    if type_ == GGML_Q4_0:
        codes = np.concatenate([blocks[:, 2:] & 15, blocks[:, 2:] >> 4], axis=1)  # low nibbles: elements 0..15
        return d * (codes.astype(np.float32) - 8)
    return decode_q4_k(blocks, d)


def decode_q4_k(blocks: np.ndarray, d: np.ndarray) -> np.ndarray:
    d_min, packed, nibbles = half(blocks[:, 2:4]), blocks[:, 4:16], blocks[:, 16:].reshape(-1, 4, 32)
    scales, mins = np.empty((len(blocks), 8), np.float32), np.empty((len(blocks), 8), np.float32)
    for j in range(8):
        if j < 4:
            scales[:, j], mins[:, j] = packed[:, j] & 63, packed[:, j + 4] & 63
        else:
            scales[:, j] = packed[:, j + 4] & 15 | packed[:, j - 4] >> 6 << 4
            mins[:, j] = packed[:, j + 4] >> 4 | packed[:, j] >> 6 << 4
    codes = np.stack([nibbles & 15, nibbles >> 4], axis=2).reshape(-1, 8, 32).astype(np.float32)
    return (d * scales)[:, :, None] * codes - (d_min * mins)[:, :, None]


GGUF_MODULES = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
                "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm",
                "ffn_norm": "post_attention_layernorm"}  # fmt: skip
GGUF_TOP = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight", "output.weight": "lm_head.weight"}


def in_halves(rows: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp pairs neighbouring rows in RoPE, transformers the two halves of a head."""
    return rows.reshape(heads, rows.shape[0] // heads // 2, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def decode_gguf(path: pathlib.Path) -> Decoded:
    file = Gguf(path)
    architecture = file.keys["general.architecture"]
    if architecture != "llama":
        raise SystemExit(f"[export_decoder] {path}: architecture {architecture!r}, known: llama")
    key = lambda name, default=None: file.keys.get(f"{architecture}.{name}", default)  # noqa: E731
    heads = key("attention.head_count")
    kv_heads = key("attention.head_count_kv", heads)
    weights, quantized = {}, {}
    for name, tensor in file.tensors.items():
        if name == "rope_freqs.weight":
            raise SystemExit(f"[export_decoder] {path}: scaled RoPE is not decoded")
        weight = file.weight(name)
        if name in GGUF_TOP:
            weights[GGUF_TOP[name]] = weight
            continue
        _, layer, part, kind = name.split(".")
        if part in ("attn_q", "attn_k"):
            weight = in_halves(weight, heads if part == "attn_q" else kv_heads)
        module = f"model.layers.{layer}.{GGUF_MODULES[part]}"
        weights[f"{module}.{kind}"] = weight
        if tensor.type in (GGML_Q4_0, GGML_Q8_0, GGML_Q4_K):
            quantized[module] = 8 if tensor.type == GGML_Q8_0 else 4
    config = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": key("embedding_length"), "intermediate_size": key("feed_forward_length"),
        "num_hidden_layers": key("block_count"), "num_attention_heads": heads, "num_key_value_heads": kv_heads,
        "head_dim": key("attention.key_length", key("embedding_length") // heads), "vocab_size": weights["model.embed_tokens.weight"].shape[0],
        "max_position_embeddings": key("context_length"), "rms_norm_eps": key("attention.layer_norm_rms_epsilon"),
        "rope_theta": key("rope.freq_base", 10000.0), "tie_word_embeddings": "lm_head.weight" not in weights,
    }  # fmt: skip
    return Decoded(config, weights, quantized, {}, "gguf")


def gguf_of(path: pathlib.Path) -> pathlib.Path | None:
    """The GGUF that a path means: itself, or the only one of a folder without config.json."""
    if path.suffix == ".gguf":
        return path
    files = sorted(path.glob("*.gguf"))
    return files[0] if len(files) == 1 and not (path / "model.safetensors").exists() else None


def decode(path) -> Decoded:
    path = pathlib.Path(path)
    file = gguf_of(path)
    return decode_gguf(file) if file else decode_folder(path)


# ---- the reference model ---------------------------------------------------------------------------------------------

INT8_LEVELS, FP8_MAX = 127.5, 448.0  # compressed-tensors divides the range by (127 + 128) / 2


def rounded_inputs(x, rule: Activations):
    """x as the integer or FP8 kernels see it, FP32. One scale a token, or the stored one."""
    import torch

    if rule.static_scale is not None:
        scale = torch.tensor(rule.static_scale)
    else:
        scale = x.abs().amax(dim=-1, keepdim=True) / (INT8_LEVELS if rule.kind == "int8" else FP8_MAX)
        scale = scale.clamp(min=torch.finfo(torch.float32).eps)
    if rule.kind == "int8":
        return torch.clamp(torch.round(x / scale), -128, 127) * scale
    return torch.clamp(x / scale, -FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn).float() * scale


def reference_model(decoded: Decoded):
    """transformers in FP32 on the decoded weights; every parameter comes from the file."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    fields = {k: v for k, v in decoded.config.items() if k not in ("model_type", "transformers_version", "dtype", "torch_dtype")}
    config = AutoConfig.for_model(decoded.config["model_type"], **fields)
    model = AutoModelForCausalLM.from_config(config).float().eval()
    state = {name: torch.from_numpy(np.ascontiguousarray(w)) for name, w in decoded.weights.items()}
    report = model.load_state_dict(state, strict=False)
    missing = [n for n in report.missing_keys if not (n == "lm_head.weight" and config.tie_word_embeddings)]
    if missing or report.unexpected_keys:
        raise SystemExit(f"[export_decoder] missing {missing[:4]}, unexpected {report.unexpected_keys[:4]}")
    model.tie_weights()
    for name, rule in decoded.activations.items():
        model.get_submodule(name).register_forward_pre_hook(lambda _, inputs, rule=rule: (rounded_inputs(inputs[0], rule), *inputs[1:]))
    return model


def logits_of(model, tokens: np.ndarray) -> np.ndarray:
    """tokens [B, T] -> logits [B, T, V] fp32, one row at a time."""
    import torch

    with torch.no_grad():
        rows = [model(input_ids=torch.from_numpy(row.astype(np.int64))[None], use_cache=False).logits[0].float() for row in tokens]
    return torch.stack(rows).numpy()


def mean_loss(logits: np.ndarray, tokens: np.ndarray) -> float:
    """Mean negative log-likelihood of the T - 1 predictions of each row."""
    total, count = 0.0, 0
    for row, ids in zip(logits, tokens):
        z = row[:-1].astype(np.float64)
        z -= z.max(axis=1, keepdims=True)
        total -= (z[np.arange(len(z)), ids[1:]] - np.log(np.exp(z).sum(axis=1))).sum()
        count += len(z)
    return total / count
