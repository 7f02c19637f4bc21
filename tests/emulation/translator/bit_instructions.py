"""Bit fields, bytes and tables."""
from .operands import register
from .ptx_module import Unknown


def bit_fields(i):
    """bfe a, position, length; bfi a, b, position, length."""
    i.count(4 if i.name == "bfe" else 5)
    values = [i.typed(1)] + ([i.typed(2)] if i.name == "bfi" else [])
    values += [f"as<b32>({i.bits(k)})" for k in (-2, -1)]
    return i.assign(f"{'extract_bits' if i.name == 'bfe' else 'insert_bits'}({', '.join(values)})")


def find_bit(i):
    shift_amount = "true" if i.takes("shiftamt") else "false"
    i.count(2)
    return i.assign(f"highest_bit<{shift_amount}>({i.typed(1)})")


def permute(i):
    i.count(4)
    return i.assign(f"permute_bytes({i.typed(1)}, {i.typed(2)}, {i.typed(3)})")


def logic3(i):
    i.count(5)
    return i.assign(f"logic3({i.typed(1)}, {i.typed(2)}, {i.typed(3)}, {int(i.operands[4], 0)})")


def funnel(i):
    side = i.takes("l", "r")
    wrap = i.takes("wrap", "clamp")
    i.count(4)
    if len(side) != 1 or len(wrap) != 1:
        raise Unknown("without a side and .wrap or .clamp")
    name = f"funnel_{'left' if side == ['l'] else 'right'}<{'true' if wrap == ['wrap'] else 'false'}>"
    return i.assign(f"{name}({i.typed(1)}, {i.typed(2)}, {i.typed(3)})")


def dot_bytes(i):
    i.count(4)
    signs = ["s8" if x == "s32" else "b8" for x in i.types]
    return (f"set({register(i.operands[0])}, dot_bytes<{signs[0]}, {signs[1]}>(as<b32>({i.bits(1)}), "
            f"as<b32>({i.bits(2)}), as<b32>({i.bits(3)})));")


BITS_AND_BYTES = {
    "bfe": bit_fields, "bfi": bit_fields, "bfind": find_bit, "prmt": permute, "lop3": logic3, "shf": funnel,
    "dp4a": dot_bytes,
}
