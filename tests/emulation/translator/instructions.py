"""One PTX instruction -> one C++ statement that calls device/*.h.

Every opcode has a function in TRANSLATORS; what is not there, or has a modifier that its function does not
know, is refused (Unknown). Semantics: PTX ISA 9.0, chapter 9.7.
"""
from .bit_instructions import BITS_AND_BYTES
from .control_instructions import CONTROL
from .memory_instructions import MEMORY
from .operands import elements, register
from .ptx_module import Unknown
from .ptx_types import BITS, TYPES

FLOATS = ("f16", "bf16", "f16x2", "bf16x2", "f32", "f64")
ROUND_DIRECTED = {"rz": "kZero", "rm": "kDown", "rp": "kUp"}
ROUND_TO_INTEGER = {"rni": "kNearest", "rzi": "kZero", "rmi": "kDown", "rpi": "kUp"}


class Instruction:
    """What a translator needs of one instruction, and the check that no modifier is left unread."""

    def __init__(self, statement, operands):
        self.name, *self.modifiers = statement.opcode
        self.types = [m for m in self.modifiers if m in TYPES]
        self.rest = [m for m in self.modifiers if m not in TYPES]
        self.operands = statement.operands
        self.line = statement.line
        self.names = operands

    @property
    def type(self):
        if not self.types:
            raise Unknown("no type")
        return TYPES[self.types[-1]]

    def takes(self, *known):
        """Removes modifiers that are known; returns those found."""
        found = [m for m in self.rest if m in known]
        self.rest = [m for m in self.rest if m not in known]
        return found

    def finish(self):
        if self.rest:
            raise Unknown("modifier ." + " .".join(self.rest))

    def count(self, *allowed):
        if len(self.operands) not in allowed:
            raise Unknown(f"{len(self.operands)} operands")

    def bits(self, i):
        return self.names.value(self.operands[i])

    def typed(self, i, kind=None):
        """Operand i as a number; flushed where the instruction says .ftz."""
        cpp = (kind or self.type).cpp
        value = f"as<{cpp}>({self.bits(i)})"
        return f"flush({value})" if self.is_flushing and cpp == "float" else value

    @property
    def is_flushing(self):
        return "ftz" in self.modifiers

    def assign(self, expression, i=0):
        if self.is_flushing and self.type.cpp == "float":
            expression = f"flush({expression})"
        return f"set({register(self.operands[i])}, {expression});"


def rounded(i, cpp_name):
    """Name of the C++ function with the instruction's rounding; others than to nearest even for f32 alone."""
    i.takes("rn", "ftz")
    directed = i.takes(*ROUND_DIRECTED) if i.types and i.types[-1] == "f32" else []
    return f"{cpp_name}_directed<Rounding::{ROUND_DIRECTED[directed[0]]}>" if directed else cpp_name


def is_float(i):
    return i.types[-1] in FLOATS


def saturated(i, expression):
    if i.takes("sat"):
        if not is_float(i):
            raise Unknown("modifier .sat of an integer")
        return f"saturate({expression})"
    return expression


def arithmetic(cpp_name, operand_count):
    """add, sub, min, max and the like: every operand of the instruction's type."""

    def translate(i):
        name = rounded(i, cpp_name) if cpp_name in ("add", "subtract") else cpp_name
        i.takes("rn", "ftz")
        i.count(operand_count + 1)
        values = ", ".join(i.typed(k + 1) for k in range(operand_count))
        return i.assign(saturated(i, f"{name}({values})"))

    return translate


def approximated(i, cpp_name):
    i.takes("ftz")
    if i.types[-1] == "f64" and i.name in ("rcp", "rsqrt"):
        cpp_name = cpp_name.replace("approximate", "coarse")
    elif i.types[-1] != "f32":
        raise Unknown(f"approximation of .{i.types[-1]}")
    return i.assign(f"{cpp_name}(t, {i.typed(1)})")


def approximate(cpp_name):
    """ex2 and its kind: .approx is required; device/approximate.h moves the result within its error."""

    def translate(i):
        i.count(2)
        if not i.takes("approx"):
            raise Unknown("without .approx")
        return approximated(i, cpp_name)

    return translate


def root(cpp_name):
    """sqrt, rcp: .rn is exact to half an ulp, .approx is not."""

    def translate(i):
        i.count(2)
        i.takes("ftz")
        if i.takes("approx"):
            return approximated(i, f"approximate_{cpp_name}")
        if not i.takes("rn"):
            raise Unknown("another rounding than .rn")
        return i.assign(f"{cpp_name}({i.typed(1)})")

    return translate


def divide(i):
    i.count(3)
    if not is_float(i):
        return i.assign(f"divide({i.typed(1)}, {i.typed(2)})")
    i.takes("ftz")
    if i.types[-1] == "f32" and i.takes("approx", "full"):
        return i.assign(f"approximate_divide(t, {i.typed(1)}, {i.typed(2)})")
    if not i.takes("rn"):
        raise Unknown("another rounding than .rn")
    return i.assign(f"divide({i.typed(1)}, {i.typed(2)})")


def multiply(i):
    """mul and mad of integers say .lo, .hi or .wide; of floats mul says nothing."""
    is_sum = i.name == "mad"
    i.count(4 if is_sum else 3)
    if is_float(i):
        if is_sum:
            raise Unknown("mad of floats")
        name = rounded(i, "multiply")
        return i.assign(saturated(i, f"{name}({i.typed(1)}, {i.typed(2)})"))
    part = i.takes("lo", "hi", "wide")
    if len(part) != 1:
        raise Unknown("without .lo, .hi or .wide")
    product = f"multiply_{part[0]}({i.typed(1)}, {i.typed(2)})"
    if is_sum:
        wide = f"as<wide_t<{i.type.cpp}>>({i.bits(3)})"
        product = f"add({product}, {wide if part[0] == 'wide' else i.typed(3)})"
    return i.assign(product)


def with_carry(i):
    """add.cc, addc, sub.cc, subc, mad.cc, madc: long numbers in parts. .cc writes the carry, the ...c kind reads it."""
    reads = "true" if i.name.endswith("c") else "false"
    writes = "true" if i.takes("cc") else "false"
    is_sum = i.name.startswith("mad")
    i.count(4 if is_sum else 3)
    if is_float(i):
        raise Unknown("carry of floats")
    name = "subtract" if i.name.startswith("sub") else "add"
    left, right = i.typed(1), i.typed(2)
    if is_sum:
        part = i.takes("lo", "hi")
        if len(part) != 1:
            raise Unknown("without .lo or .hi")
        left, right = f"multiply_{part[0]}({left}, {right})", i.typed(3)
    return i.assign(f"{name}_with_carry<{reads}, {writes}>(t.carry, {left}, {right})")


def or_with_carry(translate):
    """The usual translation where the instruction does not say .cc."""
    return lambda i: with_carry(i) if "cc" in i.rest else translate(i)


def fused(i):
    name = rounded(i, "fused")
    i.count(4)
    return i.assign(saturated(i, f"{name}({i.typed(1)}, {i.typed(2)}, {i.typed(3)})"))


def shift(i):
    i.count(3)
    return i.assign(f"{'shift_left' if i.name == 'shl' else 'shift_right'}({i.typed(1)}, as<b32>({i.bits(2)}))")


def select(i):
    i.count(4)
    return i.assign(f"({i.bits(3)} ? {i.typed(1)} : {i.typed(2)})")


COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs",
               "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan")
SAME_COMPARISON = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}


def compare(i):
    """setp p|q, a, b {, c}: p = (a op b) combined with c, q the same of !(a op b)."""
    i.takes("ftz")
    how = i.takes(*COMPARISONS)
    with_third = i.takes("and", "or", "xor")
    i.count(4 if with_third else 3)
    if len(how) != 1:
        raise Unknown("without a comparison")
    name = SAME_COMPARISON.get(how[0], how[0])
    result = f"compare_{name}({i.typed(1)}, {i.typed(2)})"
    operator = {"and": "&", "or": "|", "xor": "^"}[with_third[0]] if with_third else None
    targets = i.operands[0].split("|")
    text = f"const bool c_ = {result};"
    for target, outcome in zip(targets, ("c_", "!c_")):
        if target != "_":
            text += f" {register(target)} = " + (f"({outcome}) {operator} {i.bits(3)};" if operator else f"{outcome};")
    return text


def convert(i):
    """cvt.to.from."""
    if len(i.types) != 2:
        raise Unknown("without two types")
    target, source = (TYPES[x] for x in i.types)
    i.takes("ftz")
    to_float, from_float = (x in FLOATS for x in i.types)
    saturate = "true" if i.takes("sat") else "false"
    if i.types[0] in ("f16x2", "bf16x2"):
        i.count(3)
        i.takes("rn")
        half = TYPES[i.types[0][:-2]].cpp
        return f"set({register(i.operands[0])}, pack_halves<{half}>({i.typed(2, source)}, {i.typed(1, source)}));"
    i.count(2)
    integer_rounding = i.takes(*ROUND_TO_INTEGER)
    if integer_rounding:
        rounding = ROUND_TO_INTEGER[integer_rounding[0]]
    elif from_float and not to_float:
        raise Unknown("float to integer without a rounding")
    else:
        i.takes("rn")
        rounding = "kNone"
    value = f"convert<{target.cpp}, Rounding::{rounding}, {saturate}>({i.typed(1, source)})"
    if i.is_flushing and target.cpp == "float":
        value = f"flush({value})"
    return f"set({register(i.operands[0])}, {value});"


def move(i):
    i.count(2)
    size = i.type.size
    if i.operands[0].startswith("{"):
        parts = elements(i.operands[0])
        width = size // len(parts)
        return " ".join(f"set({register(p)}, {BITS[width]}({i.typed(1, TYPES[f'b{size * 8}'])} >> {8 * width * k}));"
                        for k, p in enumerate(parts) if p != "_")
    if i.operands[1].startswith("{"):
        parts = elements(i.operands[1])
        width = size // len(parts)
        terms = " | ".join(f"{BITS[size]}({BITS[size]}(as<{BITS[width]}>({i.names.value(p)})) << {8 * width * k})"
                           for k, p in enumerate(parts))
        return i.assign(f"{BITS[size]}({terms})")
    kind = "bool" if i.types[-1] == "pred" else BITS[size]
    return i.assign(f"as<{kind}>({i.bits(1)})")


def convert_address(i):
    """cvta: only shared memory has other addresses in its own space than in the generic one."""
    i.count(2)
    into_space = bool(i.takes("to"))
    space = i.takes("global", "shared", "local", "const", "param")
    if space == ["param"]:
        raise Unknown("modifier .param")
    value = i.typed(1)
    if space == ["shared"]:
        value = f"b64({value}) {'-' if into_space else '+'} kSharedWindow"
    return i.assign(value)


TRANSLATORS = {
    "abs": arithmetic("absolute", 1), "neg": arithmetic("negate", 1),
    "add": or_with_carry(arithmetic("add", 2)), "sub": or_with_carry(arithmetic("subtract", 2)),
    "addc": with_carry, "subc": with_carry, "madc": with_carry,
    "min": arithmetic("minimum", 2), "max": arithmetic("maximum", 2),
    "and": arithmetic("bit_and", 2), "or": arithmetic("bit_or", 2), "xor": arithmetic("bit_xor", 2),
    "not": arithmetic("bit_not", 1), "rem": arithmetic("remainder", 2), "copysign": arithmetic("sign_of", 2),
    "popc": arithmetic("count_ones", 1), "clz": arithmetic("leading_zeros", 1), "brev": arithmetic("reverse_bits", 1),
    "mul": multiply, "mad": or_with_carry(multiply), "fma": fused, "div": divide, "sqrt": root("square_root"),
    "rcp": root("reciprocal"), "rsqrt": approximate("approximate_inverse_root"),
    "ex2": approximate("approximate_exp2"), "lg2": approximate("approximate_log2"),
    "sin": approximate("approximate_sine"), "cos": approximate("approximate_cosine"),
    "tanh": approximate("approximate_tanh"),
    "shl": shift, "shr": shift, "selp": select, "setp": compare, "cvt": convert, "mov": move, "cvta": convert_address,
    **MEMORY, **CONTROL, **BITS_AND_BYTES,
}


def translate_instruction(statement, operands):
    """C++ statement of an instruction; Unknown where it is not known."""
    translate = TRANSLATORS.get(statement.opcode[0])
    if translate is None:
        raise Unknown("instruction " + ".".join(statement.opcode))
    instruction = Instruction(statement, operands)
    try:
        text = translate(instruction)
        instruction.finish()
    except Unknown as unknown:
        raise Unknown(f"{'.'.join(statement.opcode)}: {unknown}") from None
    if not statement.guard:
        return f"{{ {text} }}"
    negated, name = statement.guard.startswith("!"), statement.guard.lstrip("!")
    return f"if ({'!' if negated else ''}{register(name)}) {{ {text} }}"
