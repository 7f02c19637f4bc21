"""Branches, calls, barriers, and what the lanes of a warp do together."""
from .operands import identifier, label, register
from .ptx_module import Unknown


def branch(i):
    i.takes("uni")
    i.count(1)
    return f"goto {label(i.operands[0])};"


def leave(i):
    i.takes("uni")
    return "return;"


def call(i):
    """call (result), function, (arguments); the function has to be in the same module."""
    i.takes("uni")
    operands = list(i.operands)
    results = operands.pop(0).strip("() ").split(",") if operands and operands[0].startswith("(") else []
    name = operands[0] if operands else ""
    arguments = operands[1].strip("() \n").split(",") if len(operands) > 1 else []
    names = [x.strip() for x in results + arguments if x.strip()]
    function = i.names.functions.get(name)
    if function is None or len(operands) > 2:
        raise Unknown(f"function {name}, which is not in the module")
    if len(names) != len(function.results) + len(function.parameters) or any(x not in i.names.calls for x in names):
        raise Unknown(f"arguments of {name}")
    places = "".join(f", {i.names.calls[x].place}" for x in names)
    return f"f_{identifier(name)}(t{places});"


def trap(i):
    return f'fail(t, {i.line}, "trap");'


def barrier(i):
    i.takes("cta", "aligned")
    if i.takes("warp"):
        i.takes("sync")
        i.count(1)
        return f"warp_barrier(t, as<b32>({i.bits(0)}), {i.line});"
    is_reduction = bool(i.takes("red"))
    number = i.operands[1 if is_reduction else 0]
    if len(i.operands) != (3 if is_reduction else 1) or number != "0":
        raise Unknown("any barrier but number 0 for the whole block")
    if not is_reduction:
        if not i.takes("sync"):
            raise Unknown("without .sync")
        return f"block_barrier(t, {i.line});"
    how = i.takes("popc", "and", "or")
    if len(how) != 1:
        raise Unknown("another reduction than .popc, .and or .or")
    return i.assign(f"barrier_{how[0]}(t, {i.bits(2)}, {i.line})")


def fence(i):
    wide = i.takes("gl", "sys", "gpu")
    i.takes("cta", "acq_rel", "sc")
    return "release(t);" if wide else ";"


def nothing(i):
    i.rest = []
    return ";"


def shuffle(i):
    i.takes("sync", "b32")
    way = i.takes("up", "down", "bfly", "idx")
    i.count(5)
    if len(way) != 1:
        raise Unknown("without a direction")
    value, valid, *_ = i.operands[0].split("|") + ["_"]
    args = ", ".join(f"as<b32>({i.bits(k)})" for k in range(1, 5))
    text = f"bool valid_; const b32 v_ = shuffle_{way[0]}(t, {args}, valid_, {i.line});"
    text += f" set({register(value)}, v_);" if value != "_" else ""
    return text + (f" {register(valid)} = valid_;" if valid != "_" else "")


def vote(i):
    i.takes("sync")
    how = i.takes("ballot", "any", "all")
    i.count(3)
    if len(how) != 1:
        raise Unknown("another vote than .ballot, .any or .all")
    return f"set({register(i.operands[0])}, vote_{how[0]}(t, {i.bits(1)}, as<b32>({i.bits(2)}), {i.line}));"


def reduce_warp(i):
    i.takes("sync")
    how = i.takes("add", "min", "max", "and", "or", "xor")
    i.count(3)
    if len(how) != 1:
        raise Unknown("without an operation")
    return i.assign(f"reduce_{how[0]}(t, {i.typed(1)}, as<b32>({i.bits(2)}), {i.line})")


CONTROL = {
    "bra": branch, "ret": leave, "exit": leave, "trap": trap, "call": call, "bar": barrier, "barrier": barrier,
    "membar": fence, "fence": fence, "prefetch": nothing, "nanosleep": nothing,
    "shfl": shuffle, "vote": vote, "redux": reduce_warp,
}
