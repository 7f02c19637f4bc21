"""A Module as one C++ file: a function per entry, and a table of them that registers itself."""
import hashlib

from .discarded_loads import uncertain_loads
from .instructions import translate_instruction
from .operands import ModuleNames, Operands, identifier, label, register
from .ptx_module import Unknown
from .ptx_types import TYPES


def ptx_hash(ptx):
    """What the runtime finds the translation of a program's PTX by (runtime/fatbin.cpp has the same)."""
    value = 0xCBF29CE484222325
    for byte in ptx:
        value = ((value ^ byte) * 0x100000001B3) & (2**64 - 1)
    return value


class SharedLayout:
    """Offsets of shared variables: those of the module first, then those of each entry, dynamic last."""

    def __init__(self):
        self.offsets, self.end = {}, 0

    def add(self, variable):
        if variable.count == 0:
            self.offsets[variable.name] = None
            return
        begin = -(-self.end // variable.align) * variable.align
        self.offsets[variable.name] = begin
        self.end = begin + variable.size_bytes

    def copy(self):
        other = SharedLayout()
        other.offsets, other.end = dict(self.offsets), self.end
        return other


def emit_variable(variable, refusals):
    """Definition of a .global or .const variable."""
    kind = TYPES[variable.type].register if TYPES[variable.type].size > 1 else "b8"
    values = ""
    if variable.values:
        try:
            values = ", ".join(f"as<{kind}>({Operands.number(v)})" if not v.isdigit() else v for v in variable.values)
        except TypeError:
            refusals.add(f"initializer of {variable.name}", 0)
    count = max(variable.count, 1)
    return f"alignas({max(variable.align, 16)}) {kind} v_{identifier(variable.name)}[{count}] = {{{values}}};"


def emit_statement(statement, operands):
    if statement.kind == "label":
        return f"{label(statement.text)}:;"
    if statement.kind in ("open", "close"):
        return "{" if statement.kind == "open" else "}"
    if statement.kind == "registers":
        kind = TYPES[statement.type].register
        return f"[[maybe_unused]] {kind} " + ", ".join(f"{register(n)} = {{}}" for n in statement.names) + ";"
    if statement.kind == "parameter":
        operands.calls[statement.parameter.name] = statement.parameter
        return f"alignas(16) char {statement.parameter.place}[{statement.parameter.size_bytes}];"
    return translate_instruction(statement, operands)


def emit_body(body, signature, names, refusals):
    """C++ function of an entry or function."""
    operands = Operands(body, names, uncertain_loads(body.statements))
    lines = [f"{signature} {{"]
    for variable in body.variables:
        if variable.space == "local":
            name = identifier(variable.name)
            lines.append(f"  alignas({max(variable.align, 16)}) char v_{name}[{variable.size_bytes}];")
        elif variable.space != "shared":
            refusals.add(f"a .{variable.space} variable inside a body", body.line)
    for statement in body.statements:
        try:
            lines.append("  " + emit_statement(statement, operands))
        except (Unknown, ValueError, KeyError) as unknown:
            refusals.add(str(unknown), statement.line)
    return "\n".join([*lines, "}"])


def emit_entry(entry, shared, names, refusals):
    """(C++ function, static shared bytes)."""
    shared = shared.copy()
    for variable in entry.variables:
        if variable.space == "shared":
            shared.add(variable)
    names = ModuleNames(shared.offsets, names.global_names, names.functions)
    signature = f"void k_{identifier(entry.name)}([[maybe_unused]] Thread& t, [[maybe_unused]] const char* parameters)"
    return emit_body(entry, signature, names, refusals), shared.end


def signature_of(function):
    results = "".join(f", char* result{k}" for k in range(len(function.results)))
    arguments = "".join(f", const char* argument{k}" for k in range(len(function.parameters)))
    return f"void f_{identifier(function.name)}([[maybe_unused]] Thread& t{results}{arguments})"


def emit_module(module, ptx, capability, refusals):
    """C++ text of a module; what is not known goes to `refusals`."""
    shared, global_names, code, table = SharedLayout(), set(), [], []
    for variable in module.variables:
        if variable.space == "shared":
            shared.add(variable)
        else:
            global_names.add(variable.name)
            code.append(emit_variable(variable, refusals))
    names = ModuleNames(shared.offsets, global_names, {f.name: f for f in module.functions})
    code += [signature_of(function) + ";" for function in module.functions]
    code += [emit_body(function, signature_of(function), names, refusals) for function in module.functions]
    for entry in module.entries:
        text, shared_bytes = emit_entry(entry, shared, names, refusals)
        code.append(text)
        sizes = ", ".join(f"{{{p.offset}, {p.size_bytes}}}" for p in entry.parameters)
        table.append(f'    {{"{entry.name}", k_{identifier(entry.name)}, {entry.parameter_bytes}, {shared_bytes}, '
                     f"{entry.max_threads}, {{{sizes}}}}},")
    variables = ", ".join(
        f'{{"{v.name}", v_{identifier(v.name)}, {v.size_bytes}, {"true" if v.space == "const" else "false"}}}'
        for v in module.variables if v.name in global_names)
    return "\n".join([
        f"// Translated from PTX for {module.target}, sha256 {hashlib.sha256(ptx).hexdigest()[:16]}.",
        '#include "tests/emulation/device/translated.h"', "namespace {", "using namespace qlora::emulation;", *code,
        "const Translation translation({", f"    0x{ptx_hash(ptx):016X}ull, {capability}, {{", *table, "    },",
        f"    {{{variables}}}", "});", "}  // namespace", ""])
