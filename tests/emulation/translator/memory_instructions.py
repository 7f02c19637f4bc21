"""ld, st, atom and red."""
from .operands import elements, register
from .ptx_module import Unknown

SPACES = {"global": "kGlobal", "shared": "kShared", "local": "kLocal", "const": "kGlobal"}
ORDERED = ("relaxed", "acquire", "release", "volatile")  # other threads may touch the same bytes
SCOPES = ("cta", "gpu", "sys")
CACHE_HINTS = ("nc", "ca", "cg", "cs", "lu", "cv", "wb", "wt", "weak",
               "L1::evict_normal", "L1::evict_unchanged", "L1::evict_first", "L1::evict_last", "L1::no_allocate",
               "L2::64B", "L2::128B", "L2::256B")


def _space(i):
    """C++ name of the state space; .shared::cta is .shared."""
    found = i.takes("global", "shared", "local", "const", "shared::cta")
    return SPACES[found[0].split("::")[0]] if found else "kGeneric"


def _vector(i, operand):
    """Registers of a scalar or {a, b} operand; their count has to be what .v2 and .v4 say."""
    parts = elements(operand)
    stated = i.takes("v2", "v4", "v8")
    if len(parts) != (int(stated[0][1:]) if stated else 1):
        raise Unknown(f"{len(parts)} registers")
    return parts


def _parameter(i, operand, count, readable):
    """C++ pointer to the bytes of a parameter that may be read, or written."""
    parameter, offset = i.names.address(operand)
    if parameter is None or parameter.name not in readable:
        raise Unknown(f"parameter {operand}")
    if offset < 0 or offset + i.type.size * count > parameter.size_bytes:
        raise Unknown(f"bytes {offset} of a parameter of {parameter.size_bytes}")
    return f"{parameter.place} + {offset}"


def _load_parameter(i):
    i.takes("param")
    parts = _vector(i, i.operands[0])
    parameter, address = i.names.address(i.operands[1])
    if parameter is None:  # an address in a register, in the entry's own space of parameters
        size = i.type.size
        text = (f"const char* p_ = parameter_at(t, parameters, {i.names.parameter_bytes}, {address}, "
                f"{size * len(parts)}, {i.line});")
        return text + "".join(f" set({register(p)}, read<{i.type.cpp}>(p_ + {k * size}));" for k, p in enumerate(parts))
    place = _parameter(i, i.operands[1], len(parts), {**i.names.parameters, **i.names.calls})
    return " ".join(f"set({register(p)}, read<{i.type.cpp}>({place} + {k * i.type.size}));"
                    for k, p in enumerate(parts))


def _store_parameter(i):
    i.takes("param")
    parts = _vector(i, i.operands[1])
    place = _parameter(i, i.operands[0], len(parts), {**i.names.results, **i.names.calls})
    return " ".join(f"write({place} + {k * i.type.size}, as<{i.type.cpp}>({i.names.value(p)}));"
                    for k, p in enumerate(parts))


def load(i):
    i.count(2)
    i.takes(*CACHE_HINTS, *SCOPES)
    if "param" in i.rest:
        return _load_parameter(i)
    access = "kAtomicRead" if i.takes(*ORDERED) else "kPerhapsRead" if i.line in i.names.uncertain_loads else "kRead"
    space = _space(i)
    parts = _vector(i, i.operands[0])
    parameter, address = i.names.address(i.operands[1])
    if parameter is not None:
        raise Unknown("a parameter read through another space")
    size = i.type.size
    text = f"const char* p_ = at(t, Space::{space}, {address}, {size * len(parts)}, Access::{access}, {i.line});"
    return text + "".join(f" set({register(p)}, read<{i.type.cpp}>(p_ + {k * size}));"
                          for k, p in enumerate(parts) if p != "_")


def store(i):
    i.count(2)
    i.takes(*CACHE_HINTS, *SCOPES)
    if "param" in i.rest:
        return _store_parameter(i)
    access = "kAtomic" if i.takes(*ORDERED) else "kWrite"
    space = _space(i)
    parts = _vector(i, i.operands[1])
    parameter, address = i.names.address(i.operands[0])
    if parameter is not None:
        raise Unknown("a parameter written through another space")
    size = i.type.size
    text = f"char* p_ = at(t, Space::{space}, {address}, {size * len(parts)}, Access::{access}, {i.line});"
    return text + "".join(f" write(p_ + {k * size}, as<{i.type.cpp}>({i.names.value(p)}));"
                          for k, p in enumerate(parts))


def atomic(i):
    """atom d, [a], b {, c}; red the same without d."""
    i.takes("relaxed", "release", "acquire", "acq_rel", "noftz", *SCOPES)
    space = _space(i)
    how = i.takes("add", "min", "max", "exch", "cas", "and", "or", "xor", "inc", "dec")
    if len(how) != 1:
        raise Unknown("without an operation")
    operands = (["_"] if i.name == "red" else []) + i.operands
    if len(operands) != (4 if how[0] == "cas" else 3):
        raise Unknown(f"{len(operands)} operands")
    parameter, address = i.names.address(operands[1])
    if parameter is not None:
        raise Unknown("an atomic operation on a parameter")
    cpp = i.type.cpp
    values = ", ".join(f"as<{cpp}>({i.names.value(x)})" for x in operands[2:])
    call = f"atomic_{how[0]}<{cpp}>(t, Space::{space}, {address}, {values}, {i.line})"
    return f"set({register(operands[0])}, {call});" if operands[0] != "_" else f"{call};"


MEMORY = {"ld": load, "ldu": load, "st": store, "atom": atomic, "red": atomic}
