"""4-bit and 8-bit results of bitsandbytes on the CPU: tests/fixtures/bnb/{quant4,quant8,linear4bit_state}.

Usage: make_bnb_fixtures.py OUTPUT_FOLDER        (in the peers' environment, scripts/setup_peers.sh)
"""
import hashlib
import json
import sys
from pathlib import Path

import bitsandbytes as bnb
import bitsandbytes.functional as F
import numpy as np
import torch
from bitsandbytes.backends.default.ops import _get_4bit_quantize_bounds
from safetensors.torch import save_file


def midpoint_neighbours(bounds: torch.Tensor) -> torch.Tensor:
    """One block with absmax 1: every midpoint and the floats beside it."""
    values = [1.0]
    for bound in bounds.tolist():
        t = np.float32(bound)
        values += [t, np.nextafter(t, np.float32(9), dtype=np.float32), np.nextafter(t, np.float32(-9), dtype=np.float32)]
    values += [0.0] * (64 - len(values))
    return torch.tensor(np.array(values, dtype=np.float32)).view(1, 64)


def make_inputs(nf4_code: torch.Tensor, fp4_code: torch.Tensor, bounds: dict) -> dict:
    generator = torch.Generator().manual_seed(20261122)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    inputs = {"gauss_64x64": normal(64, 64) * 0.02}
    inputs["gauss_48x96"] = normal(48, 96) * 0.05  # blocks cross rows
    outlier = normal(32, 128) * 0.02
    outlier[::5, 7], outlier[3, 100], outlier[9, 0] = 3.5, -40.0, 1e-7
    inputs["outlier_32x128"] = outlier
    inputs["tail_10x30"] = normal(10, 30)  # the last block is short
    inputs["oddn_7x13"] = normal(7, 13)  # an odd count: packed with one nibble of padding
    inputs["tiny_1x1"] = torch.tensor([[-0.75]])
    special = normal(8, 64) * 0.1  # zeros, all equal, alternating, one tiny value, one-hot, nearly subnormal
    special[1], special[2], special[3] = 0.0, 0.25, -0.25
    special[4, ::2], special[4, 1::2] = 0.5, -0.5
    special[5], special[6], special[7] = 0, 0, 1e-38
    special[5, 63], special[6, 0] = 1e-30, -2.0
    inputs["special_8x64"] = special
    zeros = normal(4, 128) * 0.1
    zeros[0], zeros[2] = 0.0, -0.0
    inputs["zeros_4x128"] = zeros
    inputs["ties_nf4_1x64"] = midpoint_neighbours(bounds["nf4"])
    inputs["ties_fp4_1x64"] = midpoint_neighbours(bounds["fp4"])
    inputs["codes_2x64"] = torch.cat([nf4_code.repeat(4), fp4_code.repeat(4)]).view(2, 64) * 0.37
    inputs["nested_192x128"] = normal(192, 128) * torch.exp(normal(192, 1)) * 0.02  # more than one nested block
    return inputs


def sha256(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()


def four_bit_case(tensors: dict, name: str, x: torch.Tensor, dtype: str, quant_type: str, block: int, nested: bool) -> dict:
    packed, state = F.quantize_4bit(x, blocksize=block, compress_statistics=nested, quant_type=quant_type)
    key = f"q4.{name}.{dtype}.{quant_type}.bs{block}.{'dq' if nested else 'plain'}"
    tensors[key + ".packed"] = packed.reshape(-1).clone()
    tensors[key + ".absmax"] = state.absmax.clone()
    case = {"key": key, "shape": list(x.shape), "dtype": dtype, "quant_type": quant_type, "blocksize": block, "nested": nested}
    absmax = state.absmax
    if nested:
        tensors[key + ".nested_absmax"] = state.state2.absmax.clone()
        tensors[key + ".offset"] = state.offset.reshape(1).clone()
        case["nested_blocksize"] = state.state2.blocksize
        absmax = F.dequantize_blockwise(state.absmax, state.state2) + state.offset
        tensors[key + ".absmax_restored"] = absmax
    # bitsandbytes' device-independent formula; its CPU kernel differs from it where rows end inside a block.
    codes = torch.stack([packed.reshape(-1) >> 4, packed.reshape(-1) & 15], 1).reshape(-1).long()[: x.numel()]
    expected = (state.code[codes] * absmax.repeat_interleave(block)[: codes.numel()]).to(x.dtype).reshape(x.shape)
    kernel = F.dequantize_4bit(packed, state).reshape(expected.shape)
    case["cpu_kernel_equals_expected"] = bool(torch.equal(expected, kernel))
    case["cpu_kernel_wrong_elems"] = int((expected != kernel).sum())
    if x.numel() <= 4096 and not (block == 128 and x.numel() > 2048) and not (nested and quant_type == "fp4"):
        tensors[key + ".dequant"] = expected.contiguous()
    case["dequant_sha256"], case["dequant_shape"] = sha256(expected), list(expected.shape)
    return case


def make_quant4(folder: Path) -> dict:
    codes = {t: F.get_4bit_type(t, device="cpu") for t in ("nf4", "fp4")}
    bounds = {t: _get_4bit_quantize_bounds(t, torch.device("cpu"))[0] for t in ("nf4", "fp4")}
    inputs = make_inputs(codes["nf4"], codes["fp4"], bounds)
    tensors = {f"in.{name}": x.contiguous() for name, x in inputs.items()}
    for t in ("nf4", "fp4"):
        tensors[f"code.{t}"], tensors[f"bounds.{t}"] = codes[t].clone(), bounds[t].clone()
    tensors["code.dynamic_signed"] = F.create_dynamic_map(signed=True)
    tensors["code.dynamic_unsigned"] = F.create_dynamic_map(signed=False)
    cases = []
    for name, x in inputs.items():
        for dtype in ("float32", "bfloat16", "float16"):
            if dtype != "float32" and name not in ("gauss_64x64", "outlier_32x128", "special_8x64", "tail_10x30"):
                continue
            for quant_type in ("nf4", "fp4"):
                for block in (64, 128):
                    for nested in (False, True):
                        if dtype != "float32" and (block == 128 or nested or quant_type == "fp4"):
                            continue
                        cases.append(four_bit_case(tensors, name, x.to(getattr(torch, dtype)), dtype, quant_type, block, nested))
    versions = {"bitsandbytes": bnb.__version__, "torch": torch.__version__, "numpy": np.__version__}
    meta = {"versions": versions, "cpu_capability": torch.backends.cpu.get_cpu_capability(), "cases": cases}
    save_file(tensors, folder / "quant4.safetensors")
    (folder / "quant4.json").write_text(json.dumps(meta, indent=1))
    return tensors


def make_quant8(folder: Path, quant4: dict) -> None:
    tensors = {f"code.dynamic_{s}": quant4[f"code.dynamic_{s}"] for s in ("signed", "unsigned")}
    cases = []
    for name in ("gauss_64x64", "outlier_32x128", "tail_10x30", "oddn_7x13", "special_8x64", "zeros_4x128"):
        for sign in ("signed", "unsigned"):
            x = quant4[f"in.{name}"] if sign == "signed" else quant4[f"in.{name}"].abs()
            for block in (64, 256, 4096):
                for dtype in ("float32", "bfloat16") if block == 256 and sign == "signed" else ("float32",):
                    code = tensors[f"code.dynamic_{sign}"]
                    q, state = F.quantize_blockwise(x.to(getattr(torch, dtype)), code=code, blocksize=block)
                    key = f"q8.{name}.{dtype}.{sign}.bs{block}"
                    tensors[key + ".q"], tensors[key + ".absmax"] = q.reshape(-1).clone(), state.absmax.clone()
                    restored = F.dequantize_blockwise(q, state)
                    if block == 256:
                        tensors[key + ".dequant"] = restored.contiguous()
                    cases.append({"key": key, "in": name, "signed": sign, "blocksize": block, "dtype": dtype, "dequant_sha256": sha256(restored)})
    for sign in ("signed", "unsigned"):  # every level, every midpoint and the floats beside it, absmax 1
        code = tensors[f"code.dynamic_{sign}"]
        middle = (code[:-1] + code[1:]) / 2
        above, below = torch.nextafter(middle, torch.full_like(middle, 9)), torch.nextafter(middle, torch.full_like(middle, -9))
        x = torch.cat([torch.tensor([1.0]), code, middle, above, below])
        q, state = F.quantize_blockwise(x, code=code, blocksize=4096)
        tensors[f"q8ties.{sign}.in"], tensors[f"q8ties.{sign}.q"], tensors[f"q8ties.{sign}.absmax"] = x, q, state.absmax
    save_file(tensors, folder / "quant8.safetensors")
    (folder / "quant8.json").write_text(json.dumps(cases, indent=1))


def make_linear4bit_state(folder: Path) -> None:
    linear = bnb.nn.Linear4bit(128, 32, bias=False, compress_statistics=True, quant_type="nf4", compute_dtype=torch.bfloat16)
    torch.manual_seed(3)
    weight = torch.randn(32, 128).to(torch.bfloat16) * 0.05
    linear.weight = bnb.nn.Params4bit(weight.clone(), requires_grad=False, quant_type="nf4", compress_statistics=True, module=linear).to("cpu")
    tensors = {"lin." + k: v.contiguous().clone() for k, v in linear.state_dict().items()}
    save_file({**tensors, "orig_weight_bf16": weight}, folder / "linear4bit_state.safetensors")


def main() -> None:
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    make_quant8(folder, make_quant4(folder))
    make_linear4bit_state(folder)


if __name__ == "__main__":
    main()
