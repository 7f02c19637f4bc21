"""Operands of PTX instructions as C++ expressions.

Registers become variables that hold bits; as<T>(...) of device/registers.h reads them as numbers.
"""
import re

from .ptx_module import Unknown

SPECIAL = {"%tid": "t.index", "%ntid": "t.block->dim", "%ctaid": "t.block->index", "%nctaid": "t.block->grid"}


def identifier(name):
    return re.sub(r"\W", "_", name)


def register(name):
    """C++ variable of a register: %r1 -> r_r1."""
    if not re.match(r"%?[\w$]+$", name):
        raise Unknown(f"'{name}' in place of a register")
    return "r_" + identifier(name.lstrip("%"))


def label(name):
    return "L" + identifier(name)


def elements(operand):
    """Parts of {a, b}; of anything else, the operand alone."""
    return [x.strip() for x in operand.strip("{} ").split(",")] if operand.startswith("{") else [operand]


class ModuleNames:
    """What all bodies of a module see."""

    def __init__(self, shared, global_names, functions):
        self.shared, self.global_names, self.functions = shared, global_names, functions


class Operands:
    """Names that the body of an entry or function sees.

    results and arguments may be written and read; parameters of the body itself are read, its results written.
    """

    def __init__(self, body, module_names, uncertain_loads):
        self.uncertain_loads = uncertain_loads  # lines
        self.parameters = {p.name: p for p in body.parameters}
        self.results = {p.name: p for p in getattr(body, "results", [])}
        self.is_entry = not hasattr(body, "results")
        self.parameter_bytes = max((p.offset + p.size_bytes for p in body.parameters), default=0) if self.is_entry else 0
        self.calls = {}  # room of the present call, by name
        self.local_names = {v.name for v in body.variables if v.space == "local"}
        self.shared = module_names.shared  # name -> offset, None for dynamic shared memory
        self.global_names = module_names.global_names
        self.functions = module_names.functions  # name -> Function

    def symbol(self, name):
        """Address of a variable or (in its own space) an entry's parameter; None where the name is neither."""
        if self.is_entry and name in self.parameters:
            return f"b64({self.parameters[name].offset})"
        if name in self.shared:
            offset = self.shared[name]
            return "b64(t.block->dynamic_shared)" if offset is None else f"b64({offset})"
        if name in self.global_names or name in self.local_names:
            return f"address_of(v_{identifier(name)})"
        return None

    def value(self, operand):
        """Bits of a register, number, special register or address of a variable."""
        if operand.startswith("!"):
            return "!" + self.value(operand[1:])
        number = self.number(operand)
        if number:
            return number
        base, _, part = operand.partition(".")
        if base in SPECIAL and part in ("x", "y", "z"):
            return f"{SPECIAL[base]}.{part}"
        if operand == "%laneid":
            return "b32(t.lane())"
        if operand == "%warpid":
            return "b32(t.rank / 32)"
        if operand.startswith("%lanemask_"):
            return f"lane_mask_{operand[10:]}(t)"
        if operand == "WARP_SZ":
            return "b32(32)"
        if re.match(r"%(clock|globaltimer|smid|nsmid|gridid|dynamic_smem|total_smem|envreg|pm)", operand):
            raise Unknown(f"special register {operand}")
        return self.symbol(operand) or register(operand)

    @staticmethod
    def number(operand):
        if re.match(r"-?\d+U?$", operand):
            value = int(operand.rstrip("U"))
            return f"b64({value & (2**64 - 1)}ull)"
        if re.match(r"0[xX][0-9a-fA-F]+U?$", operand):
            return f"b64({operand.rstrip('U')}ull)"
        if re.match(r"0[fF][0-9a-fA-F]{8}$", operand):
            return f"b32(0x{operand[2:]}u)"
        if re.match(r"0[dD][0-9a-fA-F]{16}$", operand):
            return f"b64(0x{operand[2:]}ull)"
        return None

    def address(self, operand):
        """[base+offset] -> (Parameter or None, C++ expression of the address or the offset in the parameter)."""
        match = re.match(r"\[\s*([%\w$.]+)\s*(?:\+\s*(-?\d+))?\s*\]$", operand)
        if not match:
            raise Unknown(f"address {operand}")
        base, offset = match[1], int(match[2] or 0)
        for known in (self.parameters, self.results, self.calls):
            if base in known:
                return known[base], offset
        return None, f"b64({self.value(base)}) + b64({offset & (2**64 - 1)}ull)"
