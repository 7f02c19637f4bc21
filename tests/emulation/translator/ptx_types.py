"""PTX's types and their C++ counterparts in device/registers.h."""
from dataclasses import dataclass


@dataclass(frozen=True)
class Type:
    cpp: str  # what arithmetic takes
    size: int  # bytes
    register: str  # what a register of this type is declared as: bits


def _type(cpp, size):
    return Type(cpp, size, "bool" if cpp == "bool" else {1: "b16", 2: "b16", 4: "b32", 8: "b64"}[size])


# Registers hold bits; 8-bit values live in 16-bit registers.
TYPES = {
    "pred": _type("bool", 1),
    "b8": _type("b8", 1), "u8": _type("b8", 1), "s8": _type("s8", 1),
    "b16": _type("b16", 2), "u16": _type("b16", 2), "s16": _type("s16", 2),
    "b32": _type("b32", 4), "u32": _type("b32", 4), "s32": _type("s32", 4),
    "b64": _type("b64", 8), "u64": _type("b64", 8), "s64": _type("s64", 8),
    "f16": _type("f16", 2), "bf16": _type("bf16", 2),
    "f16x2": _type("f16x2", 4), "bf16x2": _type("bf16x2", 4),
    "f32": _type("float", 4), "f64": _type("double", 8),
}
BITS = {1: "b8", 2: "b16", 4: "b32", 8: "b64"}  # by size
